"""Digests of the local files that a run reads, so that a changed file of the same name is noticed."""

from collections.abc import Iterator
from pathlib import Path

from qvtune.data.glue import GLUE, glue_name
from qvtune.data.hub import is_saved_folder
from qvtune.files import file_digest
from qvtune.tasks.options import BALANCED, DataOptions


def file_digests(options: DataOptions) -> dict[str, str]:
    """Return the SHA-256 of every local file in `options`, under "option: file"; other data have no digest.

    A missing file is left out; its reader reports it.
    """
    return {name: file_digest(path) for name, path in _files(options)}


def changed_file(before: dict[str, str], now: dict[str, str]) -> str | None:
    """Return the name of the first file that has different contents in both, or None."""
    return next((name for name, digest in before.items() if now.get(name, digest) != digest), None)


def _files(options: DataOptions) -> Iterator[tuple[str, Path]]:
    for option, root in _roots(options):
        if root.is_file():
            yield f"--{option}: {root.name}", root
        elif is_saved_folder(root):
            yield from ((f"--{option}: {path.relative_to(root)}", path) for path in sorted(root.rglob("*.arrow")))


def _roots(options: DataOptions) -> Iterator[tuple[str, Path]]:
    task = glue_name(options.data)
    if task is None:
        yield "data", Path(options.data)
    elif options.glue_dir is not None and task in GLUE:
        glue = GLUE[task]
        tables = (options.glue_dir / glue.folder / file for file in ("train.tsv", *glue.dev))
        yield from (("glue-dir", path) for path in (*tables, options.glue_dir / task, options.glue_dir))
    if options.validation is not None:
        yield "validation", options.validation
    if options.chat_template is not None:
        yield "chat-template", options.chat_template
    if options.class_weights not in (None, BALANCED):
        yield "class-weights", Path(options.class_weights)
