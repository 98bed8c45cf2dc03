"""Build hook: compiles the kernels into the wheel."""

import platform
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ZIG = "ziglang>=0.13,<0.18"
ZIG_MACHINES = {"x86_64", "amd64", "aarch64", "arm64"}
"""machines for which Zig's compiler is a wheel on Linux, macOS and Windows"""


class KernelHook(BuildHookInterface):
    """Adds the compiled library; a wheel without it works, on the runtimes of others."""

    def dependencies(self) -> list[str]:
        """Zig's compiler for the build, where the machine has none."""
        if self.target_name != "wheel" or platform.machine().lower() not in ZIG_MACHINES:
            return []
        return [] if self._kernels().compiler() else [ZIG]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library beside its sources; a wheel with it is for this platform alone."""
        if self.target_name != "wheel":
            return
        try:
            library = self._kernels().build()
        except OSError as error:
            self.app.display_warning(f"the kernels of srq are not built: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(str(library.relative_to(self.root)))

    def _kernels(self) -> ModuleType:
        """Load build.py alone; the package is not installed yet."""
        path = Path(self.root) / "sr_quant_cli" / "kernels" / "build.py"
        spec = spec_from_file_location("kernel_build", path)
        assert spec is not None
        assert spec.loader is not None
        kernels = module_from_spec(spec)
        spec.loader.exec_module(kernels)
        return kernels
