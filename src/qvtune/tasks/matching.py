"""Files for a task that was learned before, with the names of the run, or GLUE's own, for columns and labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from qvtune.data.glue import COLA_COLUMNS, GLUE, HUB_COLUMNS, GlueTask, glue_name
from qvtune.data.tables import Table, read_table, read_text, table_suffix
from qvtune.errors import ConfigError, DataError, nearest
from qvtune.tasks.classification import class_name
from qvtune.tasks.task import Task


def read_matching(task: Task, path: Path, text_columns: Sequence[str] | None) -> tuple[Table, tuple[str, ...]]:
    """Read a file for a task, and find its text columns.

    A file for a GLUE task may be one of the benchmark's own, also CoLA's without a header. It may have the columns of
    the benchmark's files, of the hub's data, or of another task with the same classes.

    Args:
        task: what was learned.
        path: a file in any of the formats.
        text_columns: the names of its text columns, if they differ from the task's.

    Raises:
        ConfigError: if the number of named text columns is not the task's.
        DataError: if the file cannot be read, or has no such columns.
    """
    if text_columns is not None and (len(text_columns), len(set(text_columns))) != (_texts(task), _texts(task)):
        wanted = "one text, so name one column" if _texts(task) == 1 else "two texts, so name two columns"
        raise ConfigError(f"--text-column is {', '.join(text_columns)}; the run was trained on {wanted}.")
    table = _read(task, path)
    if text_columns is not None:
        candidates = [tuple(text_columns)]
    else:
        layouts = _layouts(task)
        candidates = [task.text_columns, *(tuple(map(str, g.test_texts or g.texts)) for g in layouts.values())]
        candidates += [HUB_COLUMNS[name] for name in layouts if name in HUB_COLUMNS]
    advice, is_named = "Name yours: --text-column NAME", text_columns is not None
    return table, _first_present(table, list(dict.fromkeys(candidates)), advice, is_named=is_named)


def labelled(
    task: Task, table: Table, texts: Sequence[str], label_columns: Sequence[str] | None = None
) -> tuple[Dataset, list[str]]:
    """Return the examples of a labelled table from `read_matching`, and a note about their labels.

    Args:
        task: what was learned.
        table: the file.
        texts: its text columns.
        label_columns: the names of its label columns, if they differ from the task's.

    Raises:
        DataError: if there is no label column, or a label is missing or not one of the task's.
    """
    layouts = _layouts(task)
    candidates = [task.label_columns, *((g.label,) for g in layouts.values() if isinstance(g.label, str))]
    candidates = list(dict.fromkeys(candidates)) if label_columns is None else [tuple(label_columns)]
    advice = "Name yours: --label-column NAME. Texts without labels are for 'qvtune predict'."
    labels = _first_present(table, candidates, advice, is_named=label_columns is not None)
    records, _ = task.read(table, texts, labels)
    if not task.labels or not layouts:
        return task.examples(records), []
    layout = next(iter(layouts.values()))
    names = [_class_of(layout, class_name(v), place) for v, place in zip(records.labels, records.places, strict=True)]
    by_id = set(map(class_name, records.labels)) & set(_ids(layout)) and not layout.spelled
    read = ", ".join(f"{i} is {name}" for i, name in enumerate(layout.labels))
    notes = [f"Labels that are numbers are read as on the hub: {read}."] if by_id else []
    return task.examples(replace(records, labels=names)), notes


def same_classes(task: Task, other: Task) -> bool:
    """Whether a model of one task can answer the other: the same classes, in any order, and as many texts."""
    return bool(task.labels) and set(task.labels) == set(other.labels) and _texts(task) == _texts(other)


def _texts(task: Task) -> int:
    return len(task.text_columns)


def _layouts(task: Task) -> dict[str, GlueTask]:
    """Return the layout of a GLUE task and of the others with the same classes; nothing for other tasks."""
    own = glue_name(task.name)
    if own not in GLUE:
        return {}
    alike = {
        name: layout
        for name, layout in GLUE.items()
        if layout.labels and set(layout.labels) == set(task.labels) and len(layout.texts) == _texts(task)
    }
    return {own: GLUE[own]} | alike


def _read(task: Task, path: Path) -> Table:
    own = GLUE.get(glue_name(task.name) or "")
    if own is None or own.header or table_suffix(path) != ".tsv" or not path.is_file():
        return read_table(path)
    first = read_text(path).split("\n", 1)[0].rstrip("\r").split("\t")
    is_bare = len(first) == len(COLA_COLUMNS) and first[COLA_COLUMNS.index("label")] in own.spelling
    return read_table(path, header=COLA_COLUMNS if is_bare else None)


def _first_present(
    table: Table, candidates: Sequence[tuple[str, ...]], advice: str, *, is_named: bool
) -> tuple[str, ...]:
    found = next((names for names in candidates if set(names) <= set(table.columns)), None)
    if found is not None:
        return found
    missing = next(name for name in candidates[0] if name not in table.columns)
    others = " or ".join(" and ".join(f"'{name}'" for name in names) for names in candidates[1:])
    trained = "" if is_named else f", which the run was trained on{f', nor {others}' if others else ''}"
    raise DataError(
        f"{table.source}: has no column '{missing}'{trained}.{nearest(missing, table.columns)} The columns are "
        f"{', '.join(table.columns)}.{'' if is_named else f' {advice}'}"
    )


def _class_of(layout: GlueTask, name: str, place: str) -> str:
    for names in (layout.labels, layout.spelling, _ids(layout)):
        if name in names:
            return layout.labels[names.index(name)]
    raise DataError(f"{place}: label '{name}' is none of {', '.join(layout.labels)}. Correct the label.")


def _ids(layout: GlueTask) -> tuple[str, ...]:
    return tuple(str(i) for i in range(len(layout.labels)))
