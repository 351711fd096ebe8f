"""Put compiled kernels into a wheel for Linux on x86-64, so that whoever installs it needs no compiler.

Elsewhere, without GCC, with QVTUNE_PURE_WHEEL set, and in an editable installation the wheel is pure: the kernels are
then compiled when they are first used.
"""

import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path("qvtune/fast/cpu/native")
# auditwheel finds the oldest Linux that the kernels run on, and changes the name accordingly.
TAG = "py3-none-linux_x86_64"


class KernelsHook(BuildHookInterface):
    """Compiles the kernels of `compiler.VARIANTS`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every variant, and add it to the wheel."""
        native = _load_compiler(Path(self.root) / "src" / PACKAGE / "compiler.py")
        gcc = native.find_gcc()
        is_other = not sys.platform.startswith("linux") or platform.machine().lower() not in ("x86_64", "amd64")
        if version == "editable" or is_other or gcc is None or os.environ.get("QVTUNE_PURE_WHEEL"):
            return
        self.folder = tempfile.TemporaryDirectory(prefix="qvtune-kernels-")

        def make(name: str) -> Path:
            flags = (*native.FLAGS, *native.VARIANTS[name].flags)
            return native.compile_kernels(gcc, flags, Path(self.folder.name) / f"{name}.so")

        try:
            with ThreadPoolExecutor() as pool:
                made = list(pool.map(make, native.VARIANTS))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            self.app.display_warning(f"This wheel has no compiled kernels, since GCC failed: {reason}")
            return
        build_data |= {"pure_python": False, "tag": TAG}
        build_data["force_include"] |= {str(path): str(PACKAGE / native.SHIPPED.name / path.name) for path in made}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled files, which the wheel has by now."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def _load_compiler(path: Path) -> Any:
    """Import one file: its package needs torch, which is not here while a wheel is built."""
    spec = importlib.util.spec_from_file_location("qvtune_compiler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
