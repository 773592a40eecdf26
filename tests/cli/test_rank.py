import pytest
import torch

from codec.cli import rank
from codec.cli.rank import Rank

LAUNCHED = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def test_a_launcher_says_which_process_this_is() -> None:
    assert Rank.of(LAUNCHED) == Rank(5, 8, 1, 4)
    assert Rank.of({}) == Rank.of({"RANK": "1"}) == Rank(0, 1, None, 1)


def test_every_shard_is_the_share_of_one_process() -> None:
    shares = [Rank(index, 3).share(range(10)) for index in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert Rank(1, 3).share([2, 4, 7, 9]) == [4, 7]


@pytest.mark.parametrize(
    ("place", "use_cpu", "device"),
    [(Rank(), "", "cpu"), (Rank(5, 8, 1, 4), "", "cuda:1"), (Rank(5, 8, 1, 4), "True", "cpu")],
)
def test_each_process_of_a_launcher_has_its_own_gpu(monkeypatch, place, use_cpu, device) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", use_cpu)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert place.device() == device


def test_processes_share_the_cores(monkeypatch) -> None:
    monkeypatch.setattr(rank, "_count_cores", lambda: 9)
    assert [Rank().jobs("cpu"), Rank(0, 4, 0, 4).jobs("cpu"), Rank(0, 64, 0, 16).jobs("cpu")] == [9, 2, 1]
    assert Rank(0, 4, 0, 4).jobs("cuda:0") == 1
