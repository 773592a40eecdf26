import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Affine, Frozen, Gradient, InPlace, VectorQuantize
from codec.quantize.affine import AffineMap
from codec.quantize.codebook import Codebook, Observation, learn
from codec.quantize.distance import DISTANCES
from codec.quantize.initialize import samples
from codec.quantize.update import Update

DIM, SIZE = 4, 16

UPDATES = {
    "ema": EMA(dead_ratio=0),
    "gradient": Gradient(dead_ratio=0),
    "in_place": InPlace(dead_ratio=0),
}
each_update = pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def random_map(dim: int = DIM) -> AffineMap:
    """One with moments of its own in each dimension."""
    affine = AffineMap(Affine(), dim)
    affine.start(torch.randn(dim), 0.5 + torch.rand(dim), 3 + 2 * torch.randn(SIZE, dim))
    return affine


def make(update: Update, **options) -> VectorQuantize:
    return VectorQuantize(DIM, SIZE, update=update, affine=Affine(), **options)


# The map.


def test_the_map_by_hand() -> None:
    affine = AffineMap(Affine(), 2)
    # Code vectors of mean (2, 10) and variance (1, 25); data of mean (100, 0) and variance (9, 1).
    vectors = torch.tensor([[1.0, 5.0], [3.0, 15.0]])
    affine.start(torch.tensor([100.0, 0.0]), torch.tensor([9.0, 1.0]), vectors)
    expected = torch.tensor([[97.0, -1.0], [103.0, 1.0]])
    torch.testing.assert_close(affine(vectors), expected)
    torch.testing.assert_close(affine.inverse(expected), vectors)
    # Two rows of the first code, and none of the second.
    sums = torch.tensor([[97.0 + 100.0, -1.0 + 0.0], [0.0, 0.0]])
    stored = torch.tensor([[1.0 + 2.0, 5.0 + 10.0], [0.0, 0.0]])
    torch.testing.assert_close(affine.inverse_sums(torch.tensor([2.0, 0.0]), sums), stored)


def test_the_moments_move_by_their_decays_by_hand() -> None:
    affine = AffineMap(Affine(batch_decay=0.75, codebook_decay=0.5), 1)
    affine.start(torch.tensor([4.0]), torch.tensor([8.0]), torch.tensor([[1.0], [3.0]]))
    affine.follow(torch.tensor([0.0]), torch.tensor([16.0]), torch.tensor([[2.0], [8.0]]))
    moments = [affine.batch_mean, affine.batch_variance, affine.codebook_mean, affine.codebook_variance]
    # 0.75 * 4 + 0.25 * 0, 0.75 * 8 + 0.25 * 16, 0.5 * 2 + 0.5 * 5, 0.5 * 1 + 0.5 * 9
    assert [moment.item() for moment in moments] == [3.0, 10.0, 3.5, 5.0]


def test_the_inverse_undoes_the_map() -> None:
    affine, vectors = random_map(), torch.randn(SIZE, DIM)
    torch.testing.assert_close(affine.inverse(affine(vectors)), vectors)
    torch.testing.assert_close(affine(affine.inverse(vectors)), vectors)


def test_sums_are_mapped_as_the_rows_in_them() -> None:
    affine, rows, codes = random_map(), torch.randn(100, DIM), torch.randint(SIZE, (100,))
    rows[codes == 3] = 0
    zeros, count = torch.zeros(SIZE, DIM), torch.bincount(codes, minlength=SIZE)
    expected = zeros.index_add(0, codes, affine.inverse(rows)) / 100
    torch.testing.assert_close(affine.inverse_sums(count / 100, zeros.index_add(0, codes, rows) / 100), expected)


def test_a_dimension_in_which_nothing_varies_stays_finite() -> None:
    affine = AffineMap(Affine(), 3)
    vectors = torch.tensor([[1.0, 5.0, 0.0], [1.0, 7.0, 0.0]])
    affine.start(torch.tensor([2.0, 3.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]), vectors)
    placed = affine(vectors)
    torch.testing.assert_close(placed, torch.tensor([[2.0, 3.0, 0.0], [2.0, 3.0, 0.0]]), atol=1e-4, rtol=0)
    assert affine.inverse(torch.randn(2, 3)).isfinite().all()


# In a codebook.


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_code_vectors_start_with_the_moments_of_the_data(distance: str) -> None:
    quantizer = make(EMA(), distance=distance)
    x = torch.tensor([5.0, -3.0, 0.0, 1.0]) + torch.tensor([0.1, 1.0, 2.0, 30.0]) * torch.randn(500, DIM)
    quantizer.codebook.initialize(x)
    placed = quantizer.codebook.code_vectors()
    torch.testing.assert_close(placed.mean(0), x.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(placed.std(0, correction=0), x.std(0), rtol=1e-2, atol=0)


def test_one_step_of_ema_by_hand() -> None:
    # Stored 1 and 3, of mean 2 and variance 1; data of mean 100 and variance 9: code vectors 97 and 103. Hardly any
    # smoothing; decay 0.5.
    settings = Affine(batch_decay=0.75, codebook_decay=0.5)
    codebook = Codebook(2, 1, DISTANCES["euclidean"], samples, EMA(decay=0.5, epsilon=1e-9, dead_ratio=0), settings)
    codebook.vectors.copy_(torch.tensor([[1.0], [3.0]]))
    codebook.initialized.fill_(True)
    codebook.affine.start(torch.tensor([100.0]), torch.tensor([9.0]), codebook.vectors)
    rows = torch.tensor([[100.0], [94.0], [97.0], [109.0]])
    learn([Observation(codebook, rows, torch.tensor([0, 0, 0, 1]))])
    # Stored, the rows are 2, 0, 1 and 5. With uses of 1/2 before and shares of 3/4 and 1/4:
    first = (0.5 * 1 / 2 + 0.5 * 3 / 4) / (0.5 / 2 + 0.5 * 3 / 4)
    second = (0.5 * 3 / 2 + 0.5 * 5 / 4) / (0.5 / 2 + 0.5 / 4)
    mean = 0.5 * 2 + 0.5 * (first + second) / 2
    variance = 0.5 * 1 + 0.5 * ((second - first) / 2) ** 2
    # They are stored without the moments, which become 0 and 1.
    expected = (torch.tensor([[first], [second]]) - mean) / variance**0.5
    torch.testing.assert_close(codebook.vectors, expected)
    assert (codebook.affine.codebook_mean.item(), codebook.affine.codebook_variance.item()) == (0.0, 1.0)
    # Rows of mean 100 and variance (0 + 36 + 9 + 81) / 4.
    assert codebook.affine.batch_mean.item() == pytest.approx(100)
    assert codebook.affine.batch_variance.item() == pytest.approx(0.75 * 9 + 0.25 * 31.5, rel=1e-4)
    torch.testing.assert_close(codebook.code_vectors(), expected * (0.75 * 9 + 0.25 * 31.5) ** 0.5 + 100)


def test_stored_vectors_without_their_moments_are_the_same_code_vectors() -> None:
    affine, vectors = random_map(), torch.randn(SIZE, DIM)
    placed = affine(vectors)
    normalized = affine.normalize(vectors)
    torch.testing.assert_close(affine(normalized), placed)
    assert not torch.equal(normalized, vectors)


@torch.no_grad()
@pytest.mark.parametrize("update", [EMA(decay=0.7, dead_ratio=0), Gradient(dead_ratio=0)], ids=["ema", "gradient"])
def test_learning_is_that_of_a_plain_codebook_on_mapped_rows(update: Update) -> None:
    plain, followed = (
        Codebook(SIZE, DIM, DISTANCES["euclidean"], samples, update, affine) for affine in (None, Affine())
    )
    followed.initialize(3 + 2 * torch.randn(100, DIM))
    plain.load_state_dict(followed.state_dict(), strict=False)

    def standardized(vectors: Tensor) -> Tensor:
        return (vectors - vectors.mean(0)) / vectors.std(0)

    for _ in range(5):
        plain.vectors.copy_(followed.vectors)
        rows, codes = 1 + torch.randn(60, DIM), torch.randint(SIZE, (60,))
        learn([Observation(plain, followed.affine.inverse(rows), codes)])
        learn([Observation(followed, rows, codes)])
        # But for the moments of what is stored.
        torch.testing.assert_close(standardized(followed.vectors), standardized(plain.vectors))
        assert_same(followed.usage, plain.usage)


def test_a_step_in_place_follows_the_gradient_through_the_map() -> None:
    update = InPlace(partial(torch.optim.SGD, lr=0.5), dead_ratio=0)
    codebook = Codebook(SIZE, DIM, DISTANCES["euclidean"], samples, update, Affine())
    codebook.initialize(3 + 2 * torch.randn(100, DIM))
    rows, codes = 1 + torch.randn(60, DIM), torch.randint(SIZE, (60,))
    vectors = codebook.vectors.clone().requires_grad_()
    (codebook.affine(vectors)[codes] - rows).square().mean().backward()
    learn([Observation(codebook, rows, codes)])
    torch.testing.assert_close(codebook.vectors, (vectors - 0.5 * vectors.grad).detach())


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_gradient_reaches_the_stored_vectors_through_the_map(distance: str) -> None:
    quantizer = make(Gradient(synchronous=1.0, dead_ratio=0), distance=distance)
    x = 3 + 2 * torch.randn(2, DIM, 50)
    quantizer(x)
    codebook = quantizer.codebook
    vectors = codebook.vectors.detach().clone().requires_grad_()
    placed = codebook.affine(vectors)
    rows = x.movedim(1, 2)
    if distance == "unit_cosine":
        placed, rows = (each / each.norm(dim=-1, keepdim=True) for each in (placed, rows))
    quantized, codes, losses = quantizer(x)
    expected = (placed[codes] - rows).square().mean()
    torch.testing.assert_close(losses["codebook"], expected)
    (losses["codebook"] + (3 * quantized).sum()).backward()
    (expected + (3 * placed[codes]).sum()).backward()
    torch.testing.assert_close(codebook.vectors.grad, vectors.grad, rtol=1e-4, atol=1e-4)
    assert (vectors.grad[codes.unique()] != 0).all()


@pytest.mark.parametrize("update", [EMA(dead_ratio=0.5), Gradient(dead_ratio=0.5), InPlace(dead_ratio=0.5)])
def test_a_replaced_code_is_used_as_the_row_it_was_replaced_by(update: Update) -> None:
    codebook = make(update).codebook
    codebook.initialize(3 + 2 * torch.randn(100, DIM))
    codebook.usage[[2, 5]] = 1e-4
    living = torch.tensor([code for code in range(SIZE) if code not in (2, 5)]).repeat(3)
    rows = 1 + torch.randn(len(living), DIM)
    learn([Observation(codebook, rows, living)])
    for vector in codebook.code_vectors()[[2, 5]]:
        assert (vector - rows).abs().amax(1).min() < 1e-5


@each_update
def test_code_vectors_follow_data_that_drift(update: Update) -> None:
    followed, left_behind = make(update), VectorQuantize(DIM, SIZE, update=update)
    for step in range(700):
        x = 10 + 0.01 * min(step, 500) + torch.randn(1, DIM, 100)
        used = [quantizer(x).codes.unique().numel() for quantizer in (followed, left_behind)]
    placed = followed.codebook.code_vectors()
    torch.testing.assert_close(placed.mean(0), torch.full((DIM,), 15.0), atol=0.3, rtol=0)
    torch.testing.assert_close(placed.std(0), torch.full((DIM,), 1.0), atol=0.3, rtol=0)
    assert used[0] > SIZE / 2 > used[1]


def test_data_that_drift_fast_leave_everything_finite() -> None:
    quantizer = make(EMA(decay=0.9))
    for step in range(800):
        result = quantizer(0.1 * step + torch.randn(1, DIM, 50))
    assert result.losses["commitment"].isfinite()
    assert quantizer.codebook.vectors.isfinite().all()


@pytest.mark.parametrize("update", ["ema", "in_place"])
@pytest.mark.parametrize("first", [0.0, 5.0])
def test_a_first_batch_of_equal_rows_is_forgotten(update: str, first: float) -> None:
    quantizer = make(UPDATES[update])
    quantizer(torch.full((2, DIM, 50), first))
    for _ in range(500):
        quantizer(1 + torch.randn(2, DIM, 50))
    placed = quantizer.codebook.code_vectors()
    torch.testing.assert_close(placed.mean(0), torch.ones(DIM), atol=0.3, rtol=0)
    torch.testing.assert_close(placed.std(0), torch.ones(DIM), atol=0.3, rtol=0)


@pytest.mark.parametrize("spread", [1.0, 0.1])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_the_spread_of_latents_far_from_the_origin_is_measured(mean: float, spread: float) -> None:
    quantizer = make(EMA())
    for _ in range(3):
        x = mean + spread * torch.randn(1, DIM, 2000)
        quantizer(x)
        variance = quantizer.codebook.affine.batch_variance
        torch.testing.assert_close(variance, torch.full((DIM,), spread**2), rtol=0.15, atol=0)


# State.


@each_update
@pytest.mark.parametrize("distance", DISTANCES)
def test_evaluation_never_moves_the_moments(update: Update, distance: str) -> None:
    quantizer = make(update, distance=distance)
    quantizer(torch.randn(2, DIM, 50))
    before = copy.deepcopy(quantizer.state_dict())
    x = 7 + 3 * torch.randn(2, DIM, 50)
    quantizer.encode(x)
    quantized, codes, _ = quantizer.eval()(x)
    assert torch.equal(quantizer.decode(codes), quantized)
    assert torch.equal(quantizer.encode(x), codes)
    assert_same(quantizer.state_dict(), before)


@each_update
def test_a_restored_quantizer_takes_the_same_next_step(update: Update) -> None:
    quantizer, restored = make(update), make(update)
    for _ in range(3):
        quantizer(1 + torch.randn(2, DIM, 50))
    restored.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    for _ in range(3):
        x = 2 + torch.randn(2, DIM, 50)
        assert_same(restored(x), quantizer(x))
        assert_same(restored.state_dict(), quantizer.state_dict())


def test_moments_are_in_the_state_dict() -> None:
    extra = set(make(EMA()).state_dict()) - set(VectorQuantize(DIM, SIZE).state_dict())
    moments = ("batch_mean", "batch_variance", "codebook_mean", "codebook_variance")
    assert extra == {f"codebook.affine.{name}" for name in moments}


@each_update
def test_a_batch_of_padding_moves_no_moments(update: Update) -> None:
    quantizer = make(update)
    for rows in (torch.randn(2, DIM, 5), torch.full((2, DIM, 5), float("nan"))):
        before = copy.deepcopy(quantizer.state_dict())
        quantizer(rows, torch.zeros(2, 5))
        assert_same(quantizer.state_dict(), before)
        quantizer(torch.randn(2, DIM, 50))


# Refusals.


def test_a_frozen_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^affine must be None with a frozen update: it moves the code vectors$"):
        make(Frozen())


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    message = r"^batch_decay and codebook_decay must be in \(0, 1\); got "
    with pytest.raises(ValueError, match=rf"{message}{decay}, 0\.9$"):
        Affine(batch_decay=decay)
    with pytest.raises(ValueError, match=rf"{message}0\.99, {decay}$"):
        Affine(codebook_decay=decay)
