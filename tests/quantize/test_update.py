import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Frozen, Gradient, InPlace, ResidualVQ, VectorQuantize
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.update import UPDATES, Update

DIM, SIZE = 4, 8

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def make_with(vectors: Tensor, update: Update, **options) -> VectorQuantize:
    """A quantizer of these code vectors."""
    quantizer = VectorQuantize(vectors.shape[1], vectors.shape[0], update=update, **options)
    placed = {"codebook.vectors": vectors, "codebook.initialized": torch.tensor(True)}
    quantizer.load_state_dict({**quantizer.state_dict(), **placed})
    return quantizer


# EMA.


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


# Gradient, with a synchronous update.


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("v", [0.0, 0.25, 1.0])
def test_a_synchronous_update_passes_v_times_the_output_gradient_to_the_chosen_vectors(
    estimator: str, v: float
) -> None:
    vectors, values, upstream = torch.randn(SIZE, DIM), torch.randn(2, DIM, 5), torch.randn(2, DIM, 5)
    results, gradients = [], []
    for update in (Gradient(), Gradient(synchronous=v)):
        quantizer = make_with(vectors, update, estimator=estimator)
        x = values.clone().requires_grad_()
        torch.manual_seed(1)
        results.append(quantizer(x))
        parameter = quantizer.codebook.vectors
        # Nothing arrives at the code vectors of some estimators without it.
        (results[-1].quantized * upstream + 0 * parameter.sum()).sum().backward()
        gradients.append((x.grad, parameter.grad))
    assert_same(results[1], results[0])
    assert_same(gradients[1][0], gradients[0][0])
    chosen = torch.zeros(SIZE, DIM)
    for example in range(2):
        for frame in range(5):
            chosen[results[0].codes[example, frame]] += upstream[example, :, frame]
    torch.testing.assert_close(gradients[1][1] - gradients[0][1], v * chosen)


@pytest.mark.parametrize("stages", [1, 3])
def test_a_synchronous_update_reaches_every_stage_of_a_stack(stages: int) -> None:
    quantizer = ResidualVQ([make_with(torch.randn(SIZE, DIM), Gradient(synchronous=0.25)) for _ in range(stages)])
    x = torch.randn(1, DIM, 50, requires_grad=True)
    upstream = torch.randn(1, DIM, 50)
    quantized, codes, _ = quantizer(x)
    quantized.backward(upstream)
    assert torch.equal(x.grad, upstream)
    for index, codebook in enumerate(quantizer.codebooks):
        chosen = torch.zeros(SIZE, DIM).index_add_(0, codes[0, index], upstream[0].T)
        torch.testing.assert_close(codebook.vectors.grad, 0.25 * chosen)


@pytest.mark.parametrize("v", [-0.1, 1.1, float("nan")])
def test_a_synchronous_update_out_of_range_is_refused(v: float) -> None:
    with pytest.raises(ValueError, match=rf"^synchronous must be in \[0, 1\]; got {v}$"):
        Gradient(synchronous=v)


# An own optimizer, stepped in place.


def codebook_loss(vectors: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    """||q - sg(x)||^2 of rows [n, dim], as a mean."""
    return (vectors[codes] - rows).square().mean()


def test_one_step_of_sgd_by_hand() -> None:
    quantizer = make_with(torch.tensor([[0.0], [10.0]]), InPlace(partial(torch.optim.SGD, lr=0.5), dead_ratio=0))
    quantizer(torch.tensor([[1.0, 2.0, 3.0, 12.0]])[None])
    # The gradient of ((0 - 1)^2 + (0 - 2)^2 + (0 - 3)^2 + (10 - 12)^2) / 4 is (-12 / 4, -4 / 4).
    torch.testing.assert_close(quantizer.codebook.vectors, torch.tensor([[1.5], [10.5]]))


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "unit_cosine"])
@pytest.mark.parametrize(
    "optimizer",
    [partial(torch.optim.SGD, lr=0.3), partial(torch.optim.SGD, lr=0.3, momentum=0.9), torch.optim.Adam],
    ids=["sgd", "momentum", "adam"],
)
def test_its_steps_are_those_of_the_optimizer_outside(distance: str, optimizer) -> None:
    vectors = torch.randn(SIZE, DIM)
    quantizer = make_with(vectors, InPlace(optimizer, dead_ratio=0), distance=distance)
    expected = vectors.clone().requires_grad_()
    outside = optimizer([expected])
    for _ in range(5):
        rows = 3 * torch.randn(50, DIM)
        used, rows_used = expected, rows
        if distance == "unit_cosine":
            used = expected / expected.norm(dim=1, keepdim=True)
            rows_used = rows / rows.norm(dim=1, keepdim=True)
        codes = quantizer(rows.T[None]).codes[0]
        outside.zero_grad()
        codebook_loss(used, rows_used, codes).backward()
        outside.step()
        torch.testing.assert_close(quantizer.codebook.vectors, expected.detach())
    assert (quantizer.codebook.vectors - vectors).abs().max() > 1e-3


def test_its_default_is_adam_at_a_learning_rate_of_a_thousandth() -> None:
    assert isinstance(InPlace().optimizer([torch.zeros(1)]), torch.optim.Adam)
    quantizer = make_with(torch.zeros(1, DIM), InPlace())
    quantizer(torch.ones(1, DIM, 5))
    torch.testing.assert_close(quantizer.codebook.vectors, torch.full((1, DIM), 1e-3))


def test_a_restored_quantizer_takes_the_next_step_of_its_optimizer() -> None:
    quantizer, restored = (VectorQuantize(DIM, SIZE, update=InPlace(decay=0.5, dead_ratio=0.5)) for _ in range(2))
    for _ in range(5):
        quantizer(torch.randn(2, DIM, 20))
    restored.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    for _ in range(3):
        x = torch.randn(2, DIM, 20)
        assert_same(restored(x), quantizer(x))
        assert_same(restored.state_dict(), quantizer.state_dict())


def test_a_copy_learns_on_its_own() -> None:
    quantizer = VectorQuantize(DIM, SIZE, update=InPlace())
    quantizer(torch.randn(2, DIM, 20))
    duplicate = copy.deepcopy(quantizer)
    before = copy.deepcopy(quantizer.state_dict())
    x = torch.randn(2, DIM, 20)
    duplicate(x)
    assert_same(quantizer.state_dict(), before)
    quantizer(x)
    assert_same(quantizer.state_dict(), duplicate.state_dict())


def test_a_schedule_may_change_its_learning_rate() -> None:
    quantizer = make_with(torch.zeros(1, DIM), InPlace(partial(torch.optim.SGD, lr=DIM / 2)))
    schedule = torch.optim.lr_scheduler.StepLR(quantizer.codebook.optimizer.optimizer, step_size=1, gamma=0.1)
    for expected in (1.0, 1.1, 1.11):
        target = quantizer.codebook.vectors[0] + 1
        quantizer(target.reshape(1, DIM, 1))
        schedule.step()
        torch.testing.assert_close(quantizer.codebook.vectors, torch.full((1, DIM), expected))


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)], ids=["adam", "momentum"]
)
def test_a_replaced_code_starts_without_a_past(optimizer) -> None:
    quantizer = make_with(100 * torch.arange(8.0)[:, None].expand(8, DIM), InPlace(optimizer, dead_ratio=0.5))
    state = quantizer.codebook.optimizer.state
    quantizer(torch.randn(1, DIM, 20) + quantizer.codebook.vectors.T[None, :, [0, 1, 2, 3, 4, 5, 6, 7] * 2 + [0] * 4])
    moments = [buffer for buffer in state.buffers() if buffer.ndim == 2]
    assert moments
    assert all((moment != 0).any(1).all() for moment in moments)
    quantizer.codebook.usage[[2, 5]] = 1e-4
    living = [0, 1, 3, 4, 6, 7]
    rows = 7.0 + quantizer.codebook.vectors[living]
    quantizer(rows.T[None])
    for code in (2, 5):
        assert (quantizer.codebook.vectors[code] == rows).all(1).any()
    for moment in moments:
        assert ((moment != 0).any(1) == torch.tensor([code in living for code in range(8)])).all()


# All.


@pytest.mark.parametrize("update", [Gradient(), InPlace(), Frozen()])
def test_only_ema_moves_the_vectors_itself(update: Update) -> None:
    vectors = torch.randn(4, 2)
    assert torch.equal(update.move(vectors, torch.ones(4), torch.ones(4), torch.randn(4, 2)), vectors)


def test_each_says_how_it_learns() -> None:
    assert [name for name, update in UPDATES.items() if update.by_gradient] == ["gradient"]
    assert [name for name, update in UPDATES.items() if update().optimizer is not None] == ["in_place"]
    assert [name for name, update in UPDATES.items() if update.fixed] == ["frozen"]
    assert [update().synchronous for update in UPDATES.values()] == [0] * len(UPDATES)


def test_a_frozen_codebook_replaces_nothing() -> None:
    assert Frozen().dead_ratio == 0


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(update, decay: float) -> None:
    with pytest.raises(ValueError, match=rf"^decay must be in \(0, 1\); got {decay}$"):
        update(decay=decay)


@pytest.mark.parametrize("update", [EMA, Gradient, InPlace])
@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_dead_ratio_out_of_range_is_refused(update, ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"^dead_ratio must be in \[0, 1\); got {ratio}$"):
        update(dead_ratio=ratio)


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, float("nan")])
def test_no_smoothing_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=rf"^epsilon must be positive; got {epsilon}$"):
        EMA(epsilon=epsilon)
