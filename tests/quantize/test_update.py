import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Frozen, Gradient
from codec.quantize.update import UPDATES


def test_one_step_of_ema_by_hand() -> None:
    # Two codes; decay 0.5; epsilon 1, so that a use u is smoothed to (u + 1/2) / 2. Three quarters of the rows chose
    # the first code, and add up to (3, 0) over all rows; the others to (0, 1).
    vectors = torch.tensor([[2.0, 2.0], [4.0, 0.0]])
    usage = torch.tensor([0.5, 0.5])
    moved = EMA(decay=0.5, epsilon=1.0).move(
        vectors, usage, torch.tensor([0.75, 0.25]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    )
    # Sums before: vectors times (0.5 + 0.5) / 2. After: 0.5 * (1, 1) + 0.5 * (3, 0) and 0.5 * (2, 0) + 0.5 * (0, 1).
    # Uses after: 0.625 and 0.375, smoothed 1.125 / 2 and 0.875 / 2.
    expected = torch.tensor([[2.0 / 0.5625, 0.5 / 0.5625], [1.0 / 0.4375, 0.5 / 0.4375]])
    torch.testing.assert_close(moved, expected)


def test_ema_is_that_of_the_paper_with_its_running_sums() -> None:
    size, decay, epsilon = 6, 0.9, 1e-3
    update = EMA(decay=decay, epsilon=epsilon)
    vectors, usage = torch.randn(size, 3, dtype=torch.float64), torch.full((size,), 1 / size, dtype=torch.float64)

    def smooth(count: Tensor) -> Tensor:
        """Laplace smoothing as it is usually written, of counts that add up to 1."""
        return (count + epsilon / size) / (count.sum() + size * (epsilon / size)) * count.sum()

    running_count, running_sum = usage, vectors * smooth(usage)[:, None]
    for _ in range(20):
        share = torch.rand(size, dtype=torch.float64)
        share /= share.sum()
        sums = torch.randn(size, 3, dtype=torch.float64) * share[:, None]
        running_count = decay * running_count + (1 - decay) * share
        running_sum = decay * running_sum + (1 - decay) * sums
        vectors = update.move(vectors, usage, share, sums)
        usage = torch.lerp(share, usage, decay)
        torch.testing.assert_close(vectors, running_sum / smooth(running_count)[:, None])


def test_a_code_that_no_row_chooses_stays_where_it_is_for_ever() -> None:
    update = EMA(decay=0.9, dead_ratio=0)
    vectors, usage, share = torch.randn(4, 3), torch.full((4,), 0.25), torch.tensor([0.5, 0.5, 0.0, 0.0])
    unused = vectors[2:].clone()
    for _ in range(500):
        vectors = update.move(vectors, usage, share, torch.randn(4, 3) * share[:, None])
        usage = torch.lerp(share, usage, 0.9)
    assert torch.equal(vectors[2:], unused)


def test_a_code_that_is_used_evenly_converges_to_the_mean_of_its_rows() -> None:
    vectors, usage = torch.zeros(4, 2), torch.full((4,), 0.25)
    mean = torch.randn(4, 2)
    for _ in range(300):
        vectors = EMA(decay=0.9).move(vectors, usage, usage, usage[:, None] * mean)
    torch.testing.assert_close(vectors, mean)


@pytest.mark.parametrize("size", [2, 1024])
def test_an_unused_vector_does_not_jump_at_the_first_step(size: int) -> None:
    vectors = torch.randn(size, 4)
    share = torch.zeros(size)
    share[0] = 1
    moved = EMA().move(vectors, torch.full((size,), 1 / size), share, share[:, None] * torch.ones(size, 4))
    torch.testing.assert_close(moved[1:], vectors[1:], rtol=1e-6, atol=0)


def test_a_vector_that_is_never_used_stays_finite() -> None:
    vectors = torch.ones(2, 1)
    for usage in (1e-3, 1e-30, 0.0):
        moved = EMA().move(vectors, torch.tensor([1.0, usage]), torch.tensor([1.0, 0.0]), torch.tensor([[1.0], [0.0]]))
        assert 0.98 < moved[1].item() <= 1


@pytest.mark.parametrize("update", [Gradient(), Frozen()])
def test_only_ema_moves_the_vectors_itself(update) -> None:
    vectors = torch.randn(4, 2)
    assert torch.equal(update.move(vectors, torch.ones(4), torch.ones(4), torch.randn(4, 2)), vectors)


def test_only_gradient_wants_an_optimizer() -> None:
    assert [name for name, update in UPDATES.items() if update.by_gradient] == ["gradient"]


def test_a_frozen_codebook_replaces_nothing() -> None:
    assert Frozen().dead_ratio == 0


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(update, decay: float) -> None:
    with pytest.raises(ValueError, match=rf"^decay must be in \(0, 1\); got {decay}$"):
        update(decay=decay)


@pytest.mark.parametrize("update", [EMA, Gradient])
@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_dead_ratio_out_of_range_is_refused(update, ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"^dead_ratio must be in \[0, 1\); got {ratio}$"):
        update(dead_ratio=ratio)


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, float("nan")])
def test_no_smoothing_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=rf"^epsilon must be positive; got {epsilon}$"):
        EMA(epsilon=epsilon)
