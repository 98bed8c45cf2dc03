"""Build hook: compiles the kernels into the wheel, where there is a compiler."""

import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface):
    """Adds the compiled library. Without a compiler the wheel has none, and srq does without."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library beside its sources; a wheel with it is for this platform alone."""
        if self.target_name != "wheel":
            return
        path = Path(self.root) / "sr_quant_cli" / "kernels" / "build.py"
        spec = spec_from_file_location("kernel_build", path)
        assert spec is not None
        assert spec.loader is not None
        kernels = module_from_spec(spec)
        spec.loader.exec_module(kernels)
        try:
            library = kernels.build()
        except OSError as error:
            self.app.display_warning(f"the kernels of srq are not built: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(str(library.relative_to(self.root)))
