import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Frozen, Gradient
from codec.quantize.codebook import Codebook
from codec.quantize.distance import euclidean, nearest
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import Update

EACH_UPDATE = {
    "ema": EMA(decay=0.8, dead_ratio=0.5),
    "gradient": Gradient(decay=0.8, dead_ratio=0.5),
    "frozen": Frozen(decay=0.8),
}
each_update = pytest.mark.parametrize("update", EACH_UPDATE)
each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS)

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def make(update: Update, codebook_size: int = 8, dim: int = 4, initializer: str = "samples") -> Codebook:
    return Codebook(codebook_size, dim, euclidean, INITIALIZERS[initializer], update)


def make_with(vectors: Tensor, update: Update) -> Codebook:
    """A codebook of these code vectors."""
    codebook = make(update, *vectors.shape)
    codebook.load_state_dict({**codebook.state_dict(), "vectors": vectors, "initialized": torch.tensor(True)})
    return codebook


def step(codebook: Codebook, rows: Tensor) -> None:
    codebook.initialize(rows)
    codebook.learn(rows, nearest(rows, codebook.vectors, euclidean))


def state(codebook: Codebook) -> dict[str, Tensor]:
    return copy.deepcopy(codebook.state_dict())


@each_update
def test_all_state_is_in_the_state_dict(update: str) -> None:
    codebook = make(EACH_UPDATE[update])
    assert set(codebook.state_dict()) == {"vectors", "usage", "initialized", "steps"}
    assert [name for name, _ in codebook.named_parameters()] == (["vectors"] if update == "gradient" else [])


@each_initializer
def test_the_first_batch_initializes_and_no_later_one(initializer: str) -> None:
    codebook = make(EMA(), initializer=initializer)
    assert not codebook.initialized
    codebook.initialize(torch.randn(20, 4))
    assert codebook.initialized
    before = state(codebook)
    codebook.initialize(torch.randn(20, 4))
    assert_same(state(codebook), before)


@each_update
def test_a_batch_without_rows_changes_nothing(update: str) -> None:
    codebook = make(EACH_UPDATE[update])
    before = state(codebook)
    step(codebook, torch.zeros(0, 4))
    assert_same(state(codebook), before)
    step(codebook, torch.randn(20, 4))
    before = state(codebook)
    step(codebook, torch.zeros(0, 4))
    assert_same(state(codebook), before)


def test_usage_is_the_moving_average_of_the_shares() -> None:
    codebook = make_with(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), Frozen(decay=0.5))
    step(codebook, torch.tensor([[0.1], [0.2], [0.9], [-5.0]]))
    # 0.5 * 1/4 + 0.5 * (3/4, 1/4, 0, 0)
    torch.testing.assert_close(codebook.usage, torch.tensor([0.5, 0.25, 0.125, 0.125]))
    step(codebook, torch.tensor([[3.0]]))
    torch.testing.assert_close(codebook.usage, torch.tensor([0.25, 0.125, 0.0625, 0.5625]))
    assert codebook.steps == 2


def test_one_step_of_ema_by_hand() -> None:
    # Decay 0.5 and hardly any smoothing. Each code starts with a use of 1/2; three of four rows choose the first.
    codebook = make_with(torch.tensor([[0.0], [10.0]]), EMA(decay=0.5, epsilon=1e-9, dead_ratio=0))
    step(codebook, torch.tensor([[1.0], [2.0], [3.0], [12.0]]))
    # (0.5 * 0 / 2 + 0.5 * 6 / 4) / (0.5 / 2 + 0.5 * 3 / 4) and (0.5 * 10 / 2 + 0.5 * 12 / 4) / (0.5 / 2 + 0.5 / 4)
    torch.testing.assert_close(codebook.vectors, torch.tensor([[1.2], [32 / 3]]))


@pytest.mark.parametrize("update", ["gradient", "frozen"])
def test_without_dead_codes_only_ema_moves_the_vectors(update: str) -> None:
    vectors = torch.randn(8, 4)
    codebook = make_with(vectors, EACH_UPDATE[update])
    step(codebook, vectors.repeat(3, 1))
    assert torch.equal(codebook.vectors, vectors)


def with_dead_codes(update: Update, dead: list[int]) -> Codebook:
    """A codebook of code vectors 0, 100, 200, ..., of which some have hardly been used."""
    codebook = make_with(100 * torch.arange(8.0)[:, None], update)
    codebook.usage[dead] = 1e-4
    return codebook


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_dead_code_is_replaced_by_a_row_of_the_batch(update: str) -> None:
    codebook = with_dead_codes(EACH_UPDATE[update], dead=[2, 5])
    living = torch.tensor([0, 1, 3, 4, 6, 7])
    rows = 100 * living[:, None] + torch.tensor([[1.0]])
    step(codebook, rows)
    for code in (2, 5):
        assert (codebook.vectors[code] == rows).all(1).any()
        assert codebook.usage[code] == 1 / 8
    assert codebook.vectors[2] != codebook.vectors[5]
    torch.testing.assert_close(codebook.vectors[living], 100.0 * living[:, None], atol=1, rtol=0)


def test_a_replaced_code_keeps_its_place_at_the_next_step() -> None:
    codebook = with_dead_codes(EMA(dead_ratio=0.5), dead=[2])
    codebook.vectors[2] = 150
    far = torch.tensor([[5000.0]])
    step(codebook, far)
    assert codebook.vectors[2] == far
    # Unused in the next step, then chosen by rows nearby, towards which it moves by no more than 1 - decay.
    step(codebook, torch.arange(8.0)[:, None])
    torch.testing.assert_close(codebook.vectors[2], far[0], rtol=1e-6, atol=0)
    step(codebook, far + torch.tensor([[-10.0], [-10.0]]))
    assert 4999 < codebook.vectors[2] < 5000


def test_no_row_serves_two_codes() -> None:
    codebook = with_dead_codes(EMA(dead_ratio=0.5), dead=[1, 2, 3, 4, 5])
    step(codebook, torch.tensor([[-1.0], [-2.0]]))
    assert (codebook.usage == 1 / 8).sum() == 2
    assert sorted(codebook.vectors[codebook.usage == 1 / 8].flatten().tolist()) == [-2.0, -1.0]
    assert (codebook.usage < 0.5 / 8).sum() == 3  # they wait for the next steps
    step(codebook, torch.tensor([[-3.0], [-4.0]]))
    step(codebook, torch.tensor([[-5.0], [-6.0]]))
    assert (codebook.usage >= 0.5 / 8).all()


def test_small_batches_leave_no_code_for_dead() -> None:
    # Four rows for 64 codes: an absolute threshold on counts would replace nearly all codes at every step.
    vectors = torch.randn(64, 4)
    codebook = make_with(vectors, EMA(decay=0.99, dead_ratio=0.1))
    for batch in vectors[torch.randperm(64)].split(4) * 20:
        step(codebook, batch)
        assert not (codebook.usage == 1 / 64).any()
    # Up to what the smoothing takes from each vector.
    torch.testing.assert_close(codebook.vectors, vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("update", [EMA(decay=0.5, dead_ratio=0), Frozen(decay=0.5)])
def test_without_a_ratio_no_code_is_ever_replaced(update: Update) -> None:
    vectors = torch.randn(8, 4)
    codebook = make_with(vectors, update)
    for _ in range(10):
        step(codebook, vectors[:1])
    assert (codebook.usage[1:] < 1e-3).all()
    torch.testing.assert_close(codebook.vectors, vectors, atol=0.1, rtol=0.1)


@each_update
@each_initializer
def test_a_restored_codebook_takes_the_same_next_steps(update: str, initializer: str) -> None:
    codebook = make(EACH_UPDATE[update], initializer=initializer)
    batches = [torch.randn(20, 4) for _ in range(5)]
    for batch in batches[:2]:
        step(codebook, batch)
    restored = make(EACH_UPDATE[update], initializer=initializer)
    restored.load_state_dict(state(codebook))
    torch.manual_seed(99)  # nothing depends on the random numbers of anyone else
    for batch in batches[2:]:
        step(codebook, batch)
        step(restored, batch)
        assert_same(state(restored), state(codebook))


def test_steps_replace_codes_by_different_draws() -> None:
    rows = torch.arange(1000.0)[:, None]
    drawn = []
    for steps in range(5):
        codebook = with_dead_codes(EMA(dead_ratio=0.5), dead=[2])
        codebook.steps.fill_(steps)
        step(codebook, rows)
        drawn.append(codebook.vectors[2].item())
    assert len(set(drawn)) == 5


# Two ranks.


def batches_with_dead_codes(count: int = 6) -> list[Tensor]:
    """Rows whose distribution changes, so that codes die. Of 41, no code can have a share of exactly 1/8."""
    return [torch.randn(41, 4) + 3 * (number // 2) for number in range(count)]


def learn(
    rank, codebook: Codebook, batches: list[Tensor], rows_on_first: list[int]
) -> tuple[dict[str, Tensor], list[int]]:
    """Learn from this rank's part of each batch; the state afterwards, and the collectives of each step."""
    rank.join()
    collectives = []
    for batch, count in zip(batches, rows_on_first, strict=True):
        before = rank.collectives
        step(codebook, batch[:count] if rank.index == 0 else batch[count:])
        collectives.append(rank.collectives - before)
    return state(codebook), collectives


def replacements(codebook: Codebook, batches: list[Tensor]) -> list[int]:
    """Learn from the joined batches in this process; how many codes each step replaced."""
    counts = []
    for batch in batches:
        step(codebook, batch)
        # To the last bit, as no moving average is.
        counts.append(int((codebook.usage == 1 / codebook.codebook_size).sum()))
    return counts


@each_update
@each_initializer
def test_two_ranks_learn_the_same_codebook_as_one(two_ranks, update: str, initializer: str) -> None:
    codebook = make(EACH_UPDATE[update], initializer=initializer)
    batches = batches_with_dead_codes()
    (first, _), (second, _) = two_ranks(learn, codebook, batches, [13, 41, 0, 1, 20, 40])
    assert_same(first, second)
    replaced = replacements(codebook, batches)
    assert any(replaced) == (update != "frozen")
    for name, tensor in codebook.state_dict().items():
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-6)


@each_update
def test_a_step_is_one_collective_and_one_more_where_codes_are_replaced(two_ranks, update: str) -> None:
    codebook = make(EACH_UPDATE[update])
    batches = batches_with_dead_codes()
    step(codebook, batches[0])
    (_, first), (_, second) = two_ranks(learn, codebook, batches[1:], [13, 41, 0, 1, 20])
    expected = [1 + bool(count) for count in replacements(codebook, batches[1:])]
    assert first == second == expected
    assert (2 in expected) == (update != "frozen")


@each_initializer
def test_ranks_whose_first_batches_are_all_padding_wait_for_rows(two_ranks, initializer: str) -> None:
    codebook = make(EMA(), initializer=initializer)
    batches = [torch.zeros(0, 4), torch.randn(20, 4), torch.zeros(0, 4), torch.randn(20, 4)]
    (first, _), (second, _) = two_ranks(learn, codebook, batches, [0, 20, 0, 0])
    assert_same(first, second)
    assert first["initialized"]
    assert first["steps"] == 2
    replacements(codebook, batches)
    torch.testing.assert_close(first["vectors"], codebook.vectors, atol=1e-6, rtol=0)


def learn_from_before_the_group(rank, batch: Tensor) -> dict[str, Tensor]:
    codebook = make(EMA(), initializer="kmeans")
    rank.join()
    step(codebook, batch.chunk(2)[rank.index])
    return state(codebook)


def test_a_codebook_built_before_the_process_group_is_shared_all_the_same(two_ranks) -> None:
    batch = torch.randn(40, 4)
    first, second = two_ranks(learn_from_before_the_group, batch)
    assert_same(first, second)
    codebook = make(EMA(), initializer="kmeans")
    step(codebook, batch)
    torch.testing.assert_close(first["vectors"], codebook.vectors, atol=1e-6, rtol=0)
