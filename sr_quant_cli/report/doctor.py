"""Results of ``srq doctor`` and ``srq cache`` on the terminal."""

from sr_quant_cli.commands.cache import Cache
from sr_quant_cli.commands.doctor import Diagnosis
from sr_quant_cli.report.card import print_lines
from sr_quant_cli.report.table import print_table
from sr_quant_cli.report.terminal import say


def print_diagnosis(found: Diagnosis) -> None:
    """Print the state of an installation, and the self-test last."""
    versions = found.versions
    print_lines(
        {
            "srq": versions["srq"],
            "Python": f"{versions['python']}, {found.platform}",
            "packages": ", ".join(
                f"{name} {version or 'not installed'}"
                for name, version in versions.items()
                if name not in ("srq", "python")
            ),
            "processor": f"{found.processor}, {found.cores} cores",
            "features": " ".join(found.features),
            "CUDA": found.cuda or "none",
            "kernels": found.kernels_problem or ", ".join(found.kernels),
        }
    )
    for runtime in found.runtimes:
        say(f"{'runtime:':17}{runtime.name}: {runtime.problem or 'ready'}")
    for offer in found.plugins:
        say(f"{'plugin:':17}{offer.kind} {offer.name} of {offer.origin}")
    sets = ", ".join(f"{name} ({count})" for name, count in found.data.items())
    test = found.self_test
    result = (
        f"{test.model} by {test.runtime}: {test.width}x{test.height} in {test.milliseconds} ms, "
        f"{test.megapixels_per_second} million pixels a second"
    )
    print_lines(
        {
            "data": f"{sets or 'none'} in {found.data_root}",
            "your models": f"{found.own_models} in {found.models}",
            "cache": f"{found.cache.bytes:,} bytes in {found.cache.folder}",
            "self-test": f"FAILED: {test.problem}" if test.problem else f"passed, {result}",
        }
    )


def print_cache(cache: Cache) -> None:
    """Print the parts of the cache."""
    rows = [(part.name, part.meaning, f"{part.files:,}", f"{part.bytes:,}") for part in cache.parts]
    print_table(("part", "what it holds", "files", "bytes"), rows, texts=2)
    say(f"{cache.bytes:,} bytes in {cache.folder}")
