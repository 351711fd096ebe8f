"""The cache: files that are whole, are checked, and can be changed by nobody else."""

import errno
import logging
import os
from pathlib import Path

import pytest

from qvtune.cache import cached_file, writable_cache


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QVTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Writes a content, and counts how often it was asked to."""

    def __init__(self, content: bytes = b"x" * 100) -> None:
        self.content, self.calls = content, 0

    def __call__(self, folder: Path) -> Path:
        self.calls += 1
        (folder / "made").write_bytes(self.content)
        return folder / "made"


def test_a_file_is_made_once(root: Path) -> None:
    make = Maker()
    first = cached_file("things", "key", ".bin", make)
    assert first is not None
    assert first.read_bytes() == make.content
    assert cached_file("things", "key", ".bin", make) == first
    assert make.calls == 1
    assert list((root / "things").iterdir()) == [first]


@pytest.mark.parametrize("damage", ["truncate", "edit", "empty", "folder"])
def test_a_damaged_file_is_made_again(root: Path, damage: str) -> None:
    make = Maker()
    path = cached_file("things", "key", ".bin", make)
    assert path is not None
    if damage == "truncate":
        os.truncate(path, 50)
    elif damage == "edit":
        path.write_bytes(b"y" + make.content[1:])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    found = cached_file("things", "key", ".bin", make)
    if damage == "folder":  # in whose place no file can be put
        assert found is None
    else:
        assert found is not None
        assert found.read_bytes() == make.content
    assert make.calls == 2


def test_another_key_is_another_file(root: Path) -> None:
    one, other = Maker(b"one"), Maker(b"other")
    assert cached_file("things", "one", ".bin", one) != cached_file("things", "other", ".bin", other)
    assert (one.calls, other.calls) == (1, 1)


@pytest.mark.parametrize("which", ["root", "folder", "file"])
def test_what_others_may_write_is_not_used(root: Path, which: str, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    path = cached_file("things", "key", ".bin", make)
    assert path is not None
    changed = {"root": root, "folder": root / "things", "file": path}[which]
    changed.chmod(changed.stat().st_mode | 0o022)
    with caplog.at_level(logging.WARNING):
        found = cached_file("things", "key", ".bin", make)
    if which == "file":
        assert make.calls == 2
        assert found == path
        assert not path.stat().st_mode & 0o022
    else:
        assert found is None
        assert f"{changed}: nothing is cached: others may write into it" in caplog.text
        assert "QVTUNE_CACHE" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("which", ["root", "folder", "file"])
def test_what_belongs_to_another_user_is_not_used(root: Path, which: str, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    path = cached_file("things", "key", ".bin", make)
    assert path is not None
    os.chown({"root": root, "folder": root / "things", "file": path}[which], 12345, -1)
    with caplog.at_level(logging.WARNING):
        found = cached_file("things", "key", ".bin", make)
    if which == "file":
        assert (found, make.calls) == (path, 2)
        assert path.stat().st_uid == os.geteuid()
    else:
        assert found is None
        assert "it belongs to another user" in caplog.text


def test_folders_are_made_for_their_owner_alone(root: Path) -> None:
    folder = writable_cache("things")
    assert folder is not None
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (root, folder))


def test_a_full_disk_warns_and_caches_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fill(folder: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with caplog.at_level(logging.WARNING):
        assert cached_file("things", "key", ".bin", fill) is None
    assert "No space left on device" in caplog.text
    assert not list((root / "things").iterdir())
