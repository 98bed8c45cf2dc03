"""Data, pictures and metrics can be used without torch, and without networks and recipes."""

import subprocess
import sys

LIGHT = (
    *(f"data.{name}" for name in ("benchmark", "bicubic", "catalog", "div8k", "fetch")),
    *("data.photographs", "data.store", "metrics"),
    *(f"imaging.{name}" for name in ("alpha", "formats", "io", "tiling")),
)


def test_data_pictures_and_metrics_do_without_torch():
    imports = "; ".join(f"import sr_quant_cli.{name}" for name in LIGHT)
    heavy = ["torch", "sr_quant_cli.networks", "sr_quant_cli.recipe"]
    code = f"{imports}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
