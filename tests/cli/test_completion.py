"""`qvtune completion`: scripts that shells can read, and what bash completes by one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from qvtune.cli.completion import SHELLS
from qvtune.cli.main import VERBS, main


@pytest.mark.parametrize("shell", SHELLS)
def test_it_names_every_command_and_option(shell: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [verb for verb in VERBS if verb.replace("_", " ").split()[0] not in script] == []
    assert "lr-ratio" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("qvtune tr", "train"),
        ("qvtune theory b", "bound"),
        ("qvtune train --lr-r", "--lr-ratio"),
        ("qvtune train --schedule co", "cosine"),
        ("qvtune sweep --method do", "dora"),
        ("qvtune train --data rev", "reviews.csv"),
    ],
)
def test_bash_completes(typed: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "qvtune.bash"
    script.write_text(capsys.readouterr().out)
    words = typed.split()
    ask = (
        f'source "{script}"; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; COMP_LINE="{typed}"; '
        f"COMP_POINT={len(typed)}; _shtab_qvtune qvtune {words[-1]} {words[-2]}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    (tmp_path / "reviews.csv").touch()
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert expected in done.stdout.split(), done.stderr


def test_another_shell_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completion", "tcsh"])
    assert caught.value.code == 2
    assert "'tcsh'" in capsys.readouterr().err
