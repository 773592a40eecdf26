"""Files that are whole or not there."""

import errno
import hashlib
import os
import secrets
from pathlib import Path

import pytest

from codec.whole import checksum, clear_partial, create_whole, whole_file, write_lines, write_whole


def test_a_file_comes_to_be_as_its_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as partial:
        partial.write_bytes(b"new")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a") as partial:
        partial.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_two_may_write_the_same_file_at_once_though_one_clears_the_others_away(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as first:
        first.write_bytes(b"same")
        write_whole(tmp_path / "a", b"same")
        clear_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_of_those_who_create_the_same_file_one_does(tmp_path: Path) -> None:
    create_whole(tmp_path / "a", b"first")
    create_whole(tmp_path / "a", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_file_is_created_on_disks_without_hard_links_too(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    for content in (b"first", b"second"):
        create_whole(tmp_path / "a", content)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is full")
def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0")
    for write in (lambda path: write_whole(path, b"new"), lambda path: write_lines(path, [b"new"])):
        (tmp_path / ".a.0.part").symlink_to("/dev/full")
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a'"):
            write(tmp_path / "a")
        assert not list(tmp_path.iterdir())


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".shard-00000.bin.0123.part", "shard-00000.bin", ".hidden"):
        (tmp_path / name).touch()
    clear_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "shard-00000.bin"]


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert checksum(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_whoever_may_read_new_files_may_read_these(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    for write in (write_whole, create_whole):
        write(tmp_path / write.__name__, b"content")
        assert (tmp_path / write.__name__).stat().st_mode == (tmp_path / "new").stat().st_mode
