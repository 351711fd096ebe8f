"""`Checkpoints`: the one owner of a run's checkpoints. It writes them whole, checks them and says what is damaged.

A checkpoint is a folder `checkpoint-STEP`:

    trained.safetensors     what trains, by name
    best.safetensors        the same from the best checkpoint so far, if that is an earlier one
    optimizer.safetensors   the optimizer's state, by parameter
    random-N.safetensors    every random state of process N
    state.json              step, log, schedule and everything else that is not a tensor
    manifest.json           the size and the SHA-256 digest of every other file

A checkpoint is written beside its place, flushed to the disk, and renamed. One with a missing or changed file is named
and never used. The last two stay on the disk, so that there is one to go back to.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvtune.errors import RunError
from qvtune.files import STAGING, file_digest, writing
from qvtune.methods.files import write_weights

if TYPE_CHECKING:  # slow to import, and not needed to look at a folder
    from accelerate import Accelerator
    from torch import Tensor

KEPT = 2
PREFIX = "checkpoint-"
MANIFEST, STATE = "manifest.json", "state.json"
VERSION = 1
_NAME = re.compile(rf"{PREFIX}(\d+)")


class DamagedError(RunError):
    """A checkpoint differs from what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path

    @property
    def step(self) -> int:
        """The step after which it was written."""
        return int(self.path.name.removeprefix(PREFIX))

    def check(self) -> None:
        """Check that every file is there, with the size and content that were written.

        Raises:
            DamagedError: if one is not; the text names the first.
        """
        files = self._manifest()
        for name, expected in files.items():
            file = self.path / name
            if not file.is_file():
                raise DamagedError(f"{file} is missing")
            if file.stat().st_size != expected["bytes"]:
                raise DamagedError(f"{file} has {file.stat().st_size:,} bytes, and {expected['bytes']:,} were written")
            if file_digest(file) != expected["sha256"]:
                raise DamagedError(f"{file} is not what was written: its digest is another")
        state = self.state()
        if state["step"] != self.step:
            raise DamagedError(f"{self.path} holds the state of step {state['step']}")
        for part in state["parts"]:
            if f"{part}.safetensors" not in files:
                raise DamagedError(f"{self.path / MANIFEST} does not list {part}.safetensors")

    def state(self) -> dict[str, Any]:
        """Return everything that is not a tensor."""
        return json.loads((self.path / STATE).read_text(encoding="utf-8"))

    def tensors(self, name: str) -> dict[str, "Tensor"]:
        """Return the tensors of `name`.safetensors, on the CPU; none if there is no such file."""
        from safetensors.torch import load_file

        file = self.path / f"{name}.safetensors"
        return load_file(file) if file.exists() else {}

    def _manifest(self) -> dict[str, Any]:
        file = self.path / MANIFEST
        if not file.is_file():
            raise DamagedError(f"{file} is missing")
        try:
            found = json.loads(file.read_bytes())
            files = {
                str(name): {"bytes": int(e["bytes"]), "sha256": str(e["sha256"])} for name, e in found["files"].items()
            }
            version = int(found["version"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{file} cannot be read ({type(error).__name__})") from error
        if version != VERSION:
            raise DamagedError(f"{file} is of version {version}, and this qvtune reads version {VERSION}")
        if STATE not in files or any(Path(name).name != name for name in files):
            raise DamagedError(f"{file} does not list what a checkpoint consists of")
        return files


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Checkpoint]:
        """Return every checkpoint, whole or not, the newest first; other files and folders are skipped."""
        folders = [path for path in self.folder.glob(f"{PREFIX}*") if path.is_dir() and _NAME.fullmatch(path.name)]
        return sorted((Checkpoint(path) for path in folders), key=lambda found: -found.step)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest whole checkpoint, and a sentence for each newer one that is damaged.

        Raises:
            RunError: if there are checkpoints and all are damaged.
        """
        damaged: list[str] = []
        for checkpoint in self.all():
            try:
                checkpoint.check()
            except DamagedError as error:
                damaged.append(f"{checkpoint.path.name} is damaged: {error}.")
            else:
                return checkpoint, damaged
        if damaged:
            raise RunError(
                f"{self.folder}: no checkpoint is whole. {' '.join(damaged)} Put the files back, or remove this folder "
                "to train from the start."
            )
        return None, []

    @contextmanager
    def writing(self, step: int, accelerator: "Accelerator") -> Iterator[Path]:
        """Give a folder to write a checkpoint's files into; at the end, add the manifest and rename the folder.

        Every process of a run calls this, and each may write its own files. Afterwards all but the last two checkpoints
        are removed.
        """
        staging, final = self.folder / f"{STAGING}{PREFIX}{step}", self.folder / f"{PREFIX}{step}"
        with writing(self.folder):
            if accelerator.is_main_process:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
            accelerator.wait_for_everyone()
            yield staging
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                _seal(staging)
                if final.exists():  # damaged, or from before the run went back to an earlier step
                    shutil.rmtree(final)
                staging.rename(final)
                flush(self.folder)
                self._tidy(step)
        accelerator.wait_for_everyone()

    def _tidy(self, step: int) -> None:
        """Remove all but the last two checkpoints, and damaged ones after `step`, which the run went back before."""
        for checkpoint in self.all():
            if checkpoint.step > step:
                shutil.rmtree(checkpoint.path)
        for checkpoint in self.all()[KEPT:]:
            shutil.rmtree(checkpoint.path)


def _seal(folder: Path) -> None:
    """Write the manifest of a checkpoint, and wait until all of it is on the disk."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in sorted(folder.iterdir())
    }
    text = json.dumps({"version": VERSION, "files": files}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        flush(path)
    flush(folder)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write everything that is not a tensor into a checkpoint that is being written."""
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def write_tensors(folder: Path, name: str, tensors: Mapping[str, "Tensor"]) -> None:
    """Write tensors into a checkpoint that is being written; without tensors, write no file."""
    if tensors:
        write_weights(tensors, folder / f"{name}.safetensors")


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, so that they survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
