"""Files and folders that appear whole or not at all."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qvtune.errors import QVTuneError, RunError

NUMBERS = re.compile(r"\[\n\s*((?:-?[0-9][0-9.eE+-]*,\n\s*)*-?[0-9][0-9.eE+-]*)\n\s*\]")
# Prefix of unfinished files and folders; they get their own name when they are whole.
STAGING = ".writing-"
# The form of names from `tempfile`.
RANDOM_LETTERS = 8
# Bytes of a file to read at a time.
CHUNK = 1 << 20


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs, whole or not at all."""
    write_text(path, format_json(value) + "\n")


def format_json(value: Any) -> str:
    """Return JSON with one entry per line; a list of numbers, such as a row of a matrix, is one line."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Quoted text in JSON contains no line breaks.
    return NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it.

    Raises:
        RunError: if it cannot be written, for example on a full disk; then nothing is left behind.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of a file left beside it. Only the one process that may write it may call this."""
    for leftover in path.parent.glob(f".{path.name}.{'?' * RANDOM_LETTERS}"):
        leftover.unlink()


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to write into, and rename it to `path` when the block ends without an error.

    Raises:
        RunError: if something cannot be written; then nothing is left behind.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{STAGING}{path.name}-"))
        try:
            os.chmod(staging, 0o777 & ~_umask())
            yield staging
            for file in staging.rglob("*"):  # safetensors writes files that only their owner can read
                os.chmod(file, (0o777 if file.is_dir() else 0o666) & ~_umask())
            staging.rename(path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write, in any library, into one readable error."""
    try:
        yield
    except QVTuneError:
        raise
    except Exception as error:
        if not _is_write_failure(error):
            raise
        if dangling := missing_target(path):
            raise RunError(f"{path}: cannot be written: {dangling}. Make that folder, or write elsewhere.") from error
        raise RunError(
            f"{path}: cannot be written: {_reason(error)}. What was saved before is kept; free space or choose "
            "another folder, and give the same command again."
        ) from error


def missing_target(path: Path) -> str | None:
    """Return the part of a path that is a link to something missing, or None."""
    link = next((part for part in (path, *path.parents) if part.is_symlink() and not part.exists()), None)
    return f"{link} is a link to {link.readlink()}, which is not there" if link else None


def _is_write_failure(error: Exception) -> bool:
    # torch and safetensors report a full disk with their own errors.
    text = str(error)
    return isinstance(error, OSError) or "os error" in text or "failed writing file" in text or "unexpected pos" in text


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
