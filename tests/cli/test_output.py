import errno
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from codec.cli.errors import CommandError
from codec.cli.output import OutputExistsError, check_output, new_file, open_output


def write(path, overwrite=False):
    with new_file(path, source=path.parent / "source.wav", overwrite=overwrite) as temporary:
        temporary.write_text("new")


def write_half(path, error, overwrite=False):
    with new_file(path, source=path.parent / "source.wav", overwrite=overwrite) as temporary:
        temporary.write_text("half")
        raise error


def test_the_file_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "a.rvq"
    with new_file(path, source=tmp_path / "a.wav", overwrite=False) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.rvq"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "a.rvq", error)
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.rvq"
    path.write_text("old")
    with pytest.raises(ValueError, match="broken"):
        write_half(path, ValueError("broken"), overwrite=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.rvq"]


def test_a_file_that_exists_is_replaced_only_on_demand(tmp_path):
    path = tmp_path / "a.rvq"
    path.write_text("old")
    with pytest.raises(CommandError, match=r"a\.rvq: exists already; pass --overwrite to replace it$"):
        write(path)
    assert path.read_text() == "old"
    write(path, overwrite=True)
    assert path.read_text() == "new"


def test_unusable_paths_are_refused_before_any_work(tmp_path):
    source = tmp_path / "source.wav"
    source.touch()
    (tmp_path / "link.wav").symlink_to(source)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for name, message in {
        "missing/a.rvq": f"there is no folder {tmp_path / 'missing'}",
        "source.wav/a.rvq": f"there is no folder {source}",
        "source.wav": "output must be another file than the input",
        "link.wav": "output must be another file than the input",
        "folder": "output must be a file; there is something else of that name",
        "pipe": "output must be a file; there is something else of that name",
    }.items():
        path = tmp_path / name
        with (
            pytest.raises(CommandError, match=f"^{re.escape(f'{path}: {message}')}$"),
            new_file(path, source=source, overwrite=True),
        ):
            pytest.fail("the block must not run")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CommandError, match=r"a\.rvq: Permission denied$"):
        write(tmp_path / "a.rvq")


def test_on_a_file_system_that_is_read_only_the_error_names_the_output(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(CommandError, match=rf"^{re.escape(str(tmp_path / 'a.rvq'))}: Read-only file system$"):
        write(tmp_path / "a.rvq")


@pytest.mark.parametrize("target", ["missing", "file"])
def test_a_link_is_refused_before_any_work_or_replaced_without_its_target(tmp_path, target):
    (tmp_path / "file").write_text("old")
    path = tmp_path / "a.rvq"
    path.symlink_to(tmp_path / target)
    with pytest.raises(OutputExistsError), new_file(path, source=tmp_path / "file.wav", overwrite=False):
        pytest.fail("the block must not run")
    write(path, overwrite=True)
    assert not path.is_symlink()
    assert path.read_text() == "new"
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.rvq", "file"]


def test_the_longest_possible_name_is_possible(tmp_path):
    write(tmp_path / ("a" * 255))
    assert os.listdir(tmp_path) == ["a" * 255]
    with pytest.raises(CommandError, match=r"aaa: File name too long$"):
        check_output(tmp_path / ("a" * 256), source=None, overwrite=False)


def test_permissions_are_those_of_any_new_file(tmp_path):
    write(tmp_path / "a.rvq")
    (tmp_path / "b.rvq").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.rvq", "b.rvq")]
    assert modes[0] == modes[1]


def test_works_outside_of_the_main_thread(tmp_path):
    thread = threading.Thread(target=write, args=[tmp_path / "a.rvq"])
    thread.start()
    thread.join()
    assert (tmp_path / "a.rvq").read_text() == "new"


def test_of_two_that_write_the_same_file_the_first_to_be_ready_has_written_it(tmp_path):
    path = tmp_path / "a.rvq"
    error = pytest.raises(OutputExistsError, match=r"a\.rvq: exists already")
    with error, new_file(path, source=None, overwrite=False) as temporary:
        temporary.write_text("slow")
        write(path)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.rvq"]


def test_without_links_a_file_is_renamed(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    write(tmp_path / "a.rvq")
    assert os.listdir(tmp_path) == ["a.rvq"]
    with pytest.raises(OutputExistsError), new_file(tmp_path / "b.rvq", source=None, overwrite=False) as temporary:
        temporary.write_text("slow")
        (tmp_path / "b.rvq").write_text("other")
    assert (tmp_path / "b.rvq").read_text() == "other"
    assert sorted(os.listdir(tmp_path)) == ["a.rvq", "b.rvq"]


def test_folders_are_made_on_demand(tmp_path):
    path = tmp_path / "a" / "b" / "c.rvq"
    with open_output(path, source=None, overwrite=False, make_folder=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_an_error_of_writing_names_the_output(tmp_path):
    path = tmp_path / "a.rvq"
    message = rf"^{re.escape(str(path))}: No space left on device$"
    with pytest.raises(CommandError, match=message), open_output(path, source=None, overwrite=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_checking_says_what_writing_would(tmp_path):
    (tmp_path / "a.rvq").touch()
    with pytest.raises(OutputExistsError, match="exists already"):
        check_output(tmp_path / "a.rvq", source=None, overwrite=False)
    with pytest.raises(CommandError, match="there is no folder"):
        check_output(tmp_path / "missing" / "a.rvq", source=None, overwrite=False)
    check_output(tmp_path / "missing" / "a.rvq", source=None, overwrite=False, make_folder=True)
    assert os.listdir(tmp_path) == ["a.rvq"]
