"""Folders of runs: one run each, one writer at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codec.train.checkpoint import save_checkpoint
from codec.train.folder import RunFolder

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from codec.train.folder import RunFolder
with RunFolder(Path(sys.argv[1])).claimed(False):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def leave_checkpoint(folder: RunFolder) -> None:
    save_checkpoint(folder.checkpoints, 1, {}, keep=1)


def leave_log(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.log.touch()


def test_a_new_folder_is_for_a_new_run_alone(folder) -> None:
    folder.check(resume=False)
    with pytest.raises(ValueError, match=r"run must hold a run to resume; found none$"):
        folder.check(resume=True)
    assert not folder.path.exists()


def leave_recipe(folder: RunFolder) -> None:
    folder.path.mkdir()
    folder.write_facts("recipe.json", {})


@pytest.mark.parametrize("leave", [leave_checkpoint, leave_log, leave_recipe])
def test_a_folder_that_holds_a_run_is_for_going_on_alone(folder, leave) -> None:
    leave(folder)
    folder.check(resume=True)
    with pytest.raises(ValueError, match=r"run holds a run; pass --resume to go on with it, or another --output$"):
        folder.check(resume=False)


def test_a_second_run_is_kept_out_until_the_first_ends_or_is_killed(folder) -> None:
    for end in (subprocess.Popen.kill, lambda process: process.communicate("")):
        command = [sys.executable, "-c", HOLD, folder.path]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match=r"run is in use by another run; wait for it, or pass another --output$"):
            folder.claimed(False).__enter__()
        end(process)
        process.wait()
        with folder.claimed(False):
            pass
        process.stdin.close()
        process.stdout.close()


def test_a_run_that_came_meanwhile_is_found_when_the_folder_is_claimed(folder) -> None:
    folder.check(resume=False)
    leave_checkpoint(folder)
    with pytest.raises(ValueError, match=r"run holds a run; "):
        folder.claimed(False).__enter__()
    with folder.claimed(True):
        pass


def test_what_a_killed_run_left_half_written_is_removed_by_the_next_one_alone(folder) -> None:
    leave_recipe(folder)
    partial = [place / ".config.json.0123.part" for place in (folder.path, folder.model, folder.best_model)]
    for path in partial:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with pytest.raises(ValueError, match="holds a run"):
        folder.claimed(False).__enter__()
    assert all(path.exists() for path in partial)
    with folder.claimed(True):
        assert not any(path.exists() for path in partial)
        assert (folder.path / "recipe.json").exists()


def test_facts_are_json(folder) -> None:
    with folder.claimed(False):
        folder.write_facts("run.json", {"hours": 3.5, "kinds": ("stft",)})
    assert json.loads((folder.path / "run.json").read_text()) == {"hours": 3.5, "kinds": ["stft"]}
