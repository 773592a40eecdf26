"""The collectives, in one process and in two. What two ranks learn is tested beside what learns."""

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec import distributed

ROOT = Path(__file__).parents[1]

JOINED = torch.arange(15.0).view(5, 3)


def test_a_single_process_is_rank_0_of_1() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_in_a_single_process_a_sum_is_the_tensor() -> None:
    tensors = torch.randn(2, 3), torch.arange(4)
    for total, tensor in zip(distributed.sum_over_ranks(*tensors), tensors, strict=True):
        assert torch.equal(total, tensor)


def test_in_a_single_process_rows_are_picked_by_their_index() -> None:
    picked = distributed.pick_own_rows(JOINED, torch.tensor([5]), torch.tensor([4, 0, 0]))
    assert picked.tolist() == [[12, 13, 14], [0, 1, 2], [0, 1, 2]]


def ask_who_is_who(rank) -> tuple[int, ...]:
    before = distributed.rank(), distributed.world_size()
    rank.join()
    return *before, distributed.rank(), distributed.world_size()


def test_whether_there_are_other_ranks_is_asked_at_every_call(two_ranks) -> None:
    assert two_ranks(ask_who_is_who) == [(0, 1, 0, 2), (0, 1, 1, 2)]


def add_up(rank, *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], int]:
    rank.join()
    mine = tuple(tensor * (rank.index + 1) for tensor in tensors)
    return distributed.sum_over_ranks(*mine), mine, rank.collectives


def test_sums_keep_shape_and_order_and_leave_the_tensors_alone(two_ranks) -> None:
    tensors = torch.randn(2, 3), torch.randn(()), torch.randn(4), torch.randn(0, 5)
    for index, (sums, mine, _) in enumerate(two_ranks(add_up, *tensors)):
        for total, own, tensor in zip(sums, mine, tensors, strict=True):
            torch.testing.assert_close(total, 3 * tensor)
            assert torch.equal(own, (index + 1) * tensor)


def test_any_number_of_tensors_is_one_collective(two_ranks) -> None:
    assert [collectives for _, _, collectives in two_ranks(add_up, torch.ones(2), torch.ones(3))] == [1, 1]


def gather(rank) -> list[dict[str, int]]:
    rank.join()
    return distributed.gather_objects({"rank": rank.index})


def test_every_rank_gets_what_each_holds(two_ranks) -> None:
    assert distributed.gather_objects("alone") == ["alone"]
    assert two_ranks(gather) == [[{"rank": 0}, {"rank": 1}]] * 2


def test_sums_have_the_precision_of_the_tensors(two_ranks) -> None:
    # Neither fits into 32 bits.
    fraction, count = torch.tensor(1 + 1e-12, dtype=torch.float64), torch.tensor(2**40 + 1)
    for (fractions,), _, _ in two_ranks(add_up, fraction):
        assert torch.equal(fractions, 3 * fraction)
    for (counts,), _, _ in two_ranks(add_up, count):
        assert torch.equal(counts, 3 * count)


def test_sums_of_mixed_types_keep_their_types(two_ranks) -> None:
    tensors = torch.tensor([1, 2]), torch.tensor([0.5]), torch.tensor([0.25], dtype=torch.float64)
    for sums, _, _ in two_ranks(add_up, *tensors):
        assert [total.dtype for total in sums] == [torch.int64, torch.float32, torch.float64]
        assert [total.tolist() for total in sums] == [[3, 6], [1.5], [0.75]]


def pick(rank, rows_per_rank: Tensor, indices: Tensor) -> tuple[Tensor, int]:
    rank.join()
    mine = JOINED.split(rows_per_rank.tolist())[rank.index]
    own = distributed.pick_own_rows(mine, rows_per_rank, indices)
    return distributed.sum_over_ranks(own)[0], rank.collectives


@pytest.mark.parametrize("rows_per_rank", [[2, 3], [4, 1], [0, 5], [5, 0]])
@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [4, 0, 4, 2], [1], []])
def test_both_ranks_pick_the_rows_of_the_joined_batch(two_ranks, rows_per_rank: list[int], indices: list[int]) -> None:
    index = torch.tensor(indices, dtype=torch.int64)
    for picked, collectives in two_ranks(pick, torch.tensor(rows_per_rank), index):
        assert torch.equal(picked, JOINED[index])
        assert collectives == 1


def test_every_collective_of_the_project_is_in_one_file() -> None:
    for path in (ROOT / "codec").rglob("*.py"):
        if path != ROOT / "codec/distributed.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                dotted = [module, *names, *(f"{module}.{name}" for name in names)]
                assert not any(name.startswith("torch.distributed") for name in dotted), f"{path}:{node.lineno}"
