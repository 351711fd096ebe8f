"""Outside of `tasks/` nothing asks which kind a task is of."""

import re
from pathlib import Path

import qvtune
from qvtune.tasks.table import TASKS

SOURCE = Path(qvtune.__file__).parent
BRANCH = re.compile(rf"\btask\.kind\b|\btasks?\.(?:classification|regression) import|[\"'](?:{'|'.join(TASKS)})[\"']")
# The plan of a model without data is that of two classes; and a command has the name of a kind.
ALLOWED = {
    ("training/plan.py", "tasks.classification import"),
    ("cli/main.py", '"completion"'),
    ("cli/completion.py", '"completion"'),
}


def test_no_file_outside_asks_for_a_kind() -> None:
    files = [path for path in SOURCE.rglob("*.py") if SOURCE / "tasks" not in path.parents]
    assert len(files) > 150
    found = {
        (path.relative_to(SOURCE).as_posix(), match)
        for path in files
        for match in BRANCH.findall(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


def test_the_data_know_of_no_task() -> None:
    for path in (SOURCE / "data").rglob("*.py"):
        assert "qvtune.tasks" not in path.read_text(encoding="utf-8"), path
