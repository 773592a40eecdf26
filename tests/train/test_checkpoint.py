"""Checkpoints: whole or not there, whatever happens while they are written."""

import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.train.checkpoint import (
    differences,
    last_checkpoint,
    list_checkpoints,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
    step_of,
)

ROOT = Path(__file__).parents[2]

# Writes checkpoints of 40 MB without end, each of which says its step all over.
WRITER = """
import sys, torch
from pathlib import Path
from codec.train.checkpoint import save_checkpoint
for step in range(1, 10**6):
    save_checkpoint(Path(sys.argv[1]), step, {"weights": torch.full((10**7,), float(step))}, keep=2)
    print(step, flush=True)
"""


def save(folder: Path, step: int, **options) -> None:
    save_checkpoint(folder, step, {"step": step}, **{"keep": 2, **options})


def steps(folder: Path) -> list[int]:
    return [step_of(path) for path in list_checkpoints(folder)]


def test_what_is_saved_is_what_is_loaded(tmp_path) -> None:
    state = {
        "weights": {"a": torch.randn(3, 4), "b": torch.tensor(True)},
        "moments": [torch.randn(2).bfloat16(), 3, 0.1, "name", None],
        "numbers": (1, 2),
    }
    save_checkpoint(tmp_path / "new", 7, state, keep=1)
    loaded = load_checkpoint(tmp_path / "new" / "step-00000007.pt")
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert loaded["weights"]["b"] == state["weights"]["b"]
    assert torch.equal(loaded["moments"][0], state["moments"][0])
    assert (loaded["moments"][1:], loaded["numbers"]) == (state["moments"][1:], state["numbers"])


def test_the_last_ones_and_the_best_are_kept(tmp_path) -> None:
    for step in range(2, 14, 2):
        save(tmp_path, step, keep=3, best=4)
    assert steps(tmp_path) == [4, 8, 10, 12]
    save(tmp_path, 14, keep=1, best=14)
    assert steps(tmp_path) == [14]


def test_what_is_no_checkpoint_is_not_listed(tmp_path) -> None:
    save(tmp_path, 3)
    for name in ("step-00000004.pt.part", ".step-00000005.pt.partial", "step-6.pt", "other.pt"):
        (tmp_path / name).write_bytes(b"")
    assert steps(tmp_path) == [3]
    assert steps(tmp_path / "none") == []


def last_of_rank(rank, folder: Path, shared: bool) -> str:
    rank.join()
    try:
        return str(last_checkpoint(folder if shared or rank.index == 0 else folder / "other"))
    except ValueError as error:
        return str(error)


def test_the_last_one_is_the_same_for_all_ranks(two_ranks, tmp_path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    assert last_checkpoint(folder) is None
    save(folder, 3)
    save(folder, 12)
    assert last_checkpoint(folder) == folder / "step-00000012.pt"
    assert two_ranks(last_of_rank, folder, True) == [str(folder / "step-00000012.pt")] * 2
    for message in two_ranks(last_of_rank, folder, False):
        assert "must be on a disk that all machines share; they find [['step-00000012.pt'], []]" in message


def test_opening_a_file_runs_none_of_its_code(tmp_path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"step": Trap(tmp_path / "trapped")}, path)
    with pytest.raises(ValueError, match=r"step-00000001.pt must be a checkpoint of a run; it holds other things$"):
        load_checkpoint(path)
    assert not (tmp_path / "trapped").exists()


class Trap:
    """What a pickle would make a file by when it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint at all", None])
def test_a_damaged_file_is_named(tmp_path, content: bytes | None) -> None:
    save(tmp_path, 1)
    (path,) = list_checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=r"step-00000001.pt must be a checkpoint of a run; "):
        load_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_leaves_those_before_it(tmp_path) -> None:
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The nearest to a full disk that needs no rights: writing fails after 100 kB.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError, match=r"step-00000002.pt cannot be written; File too large$"):
            save_checkpoint(tmp_path, 2, {"weights": torch.zeros(10**6)}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert load_checkpoint(tmp_path / "step-00000001.pt") == {"step": 1}


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_checkpoints_alone(tmp_path) -> None:
    chance = random.Random(0)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        finished = int(writer.stdout.readline())
        time.sleep(chance.uniform(0, 0.3))
        writer.kill()
        finished = max([finished, *map(int, writer.communicate()[0].split())])
        assert 1 <= len(steps(tmp_path)) <= 3
        assert steps(tmp_path)[-1] >= finished
        for path in list_checkpoints(tmp_path):
            assert (load_checkpoint(path)["weights"] == step_of(path)).all()
        for path in list_checkpoints(tmp_path):
            path.unlink()
    save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_restored_generators_go_on_as_they_would_have(tmp_path) -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(()).item()]

    draw()
    save_checkpoint(tmp_path, 1, random_states(), keep=1)
    expected = draw()
    restore_random_states(load_checkpoint(tmp_path / "step-00000001.pt"))
    assert draw() == expected


def test_differences_name_the_settings() -> None:
    before = {"name": "a", "run": {"steps": 6, "seed": 0}, "loss": {"windows": (512, 256), "old": 1}}
    now = {"name": "a", "run": {"steps": 8, "seed": 0}, "loss": {"windows": [512, 256], "new": 2}}
    assert differences(before, now) == ["run.steps: 6, now 8", "loss.old: 1, now None", "loss.new: None, now 2"]
    assert differences(before, before) == []
