"""Against the package vector_quantize_pytorch: what is equal, and each difference that is intended."""

import copy

import pytest
import torch
import vector_quantize_pytorch as package
from torch import Tensor

from codec.quantize import (
    EMA,
    Affine,
    Diversity,
    Frozen,
    Gradient,
    InPlace,
    Orthogonal,
    ResidualVQ,
    VectorQuantize,
)
from codec.quantize import distance as distance_module
from codec.quantize.distance import DISTANCES

DIM, SIZE, ROWS = 6, 16, 1000

each_distance = pytest.mark.parametrize("distance", ["euclidean", "unit_cosine"])


def ours(vectors: Tensor, **options) -> VectorQuantize:
    """A quantizer of these code vectors, in training mode."""
    quantizer = VectorQuantize(vectors.shape[1], len(vectors), channel_last=True, **options)
    quantizer.codebook.vectors.data.copy_(vectors)
    quantizer.codebook.initialized.fill_(True)
    return quantizer


def theirs(vectors: Tensor, distance: str = "euclidean", **options) -> package.VectorQuantize:
    """The same of the package; without options, as it starts."""
    cosine = distance != "euclidean"
    options = {"dim": vectors.shape[1], "codebook_size": len(vectors), "use_cosine_sim": cosine, **options}
    quantizer = package.VectorQuantize(**options)
    quantizer._codebook.embed.data.copy_(vectors[None])
    quantizer._codebook.embed_avg.copy_(vectors[None])
    return quantizer


def count_as_ours(quantizer: package.VectorQuantize, rows: int) -> None:
    """Start from uniform use by so many rows: a share of 1 / codebook_size in our terms."""
    codebook = quantizer._codebook
    codebook.cluster_size.fill_(rows / codebook.codebook_size)
    codebook.embed_avg.copy_(codebook.embed * rows / codebook.codebook_size)


def random_vectors(distance: str = "euclidean", size: int = SIZE, dim: int = DIM) -> Tensor:
    """Among normal rows; of unit length where the package takes them for it."""
    vectors = 0.7 * torch.randn(size, dim)
    return vectors if distance == "euclidean" else torch.nn.functional.normalize(vectors, dim=1)


# What is equal.


@pytest.mark.parametrize("distance", DISTANCES)
def test_codes_are_equal(distance: str) -> None:
    vectors, x = random_vectors(distance, 256, 16), torch.randn(10, 1000, 16)
    codes = theirs(vectors, distance).eval()(x)[1]
    assert torch.equal(ours(vectors, distance=distance).encode(x), codes)


@each_distance
@pytest.mark.parametrize("epsilon", [1e-5, 1.0])  # theirs is an absolute count, ours a share of all
def test_code_vectors_codes_and_losses_are_equal_over_ten_steps_of_ema(distance: str, epsilon: float) -> None:
    vectors = random_vectors(distance)
    mine = ours(vectors, distance=distance, update=EMA(0.9, epsilon=epsilon * SIZE / ROWS, dead_ratio=0))
    other = theirs(vectors, distance, decay=0.9, eps=epsilon)
    count_as_ours(other, ROWS)
    for number in range(10):
        x = torch.randn(4, ROWS // 4, DIM) + 0.03 * number
        quantized, codes, loss = other(x)
        result = mine(x)
        assert torch.equal(result.codes, codes)
        assert len(codes.unique()) == SIZE  # those that nobody uses differ; see below
        torch.testing.assert_close(result.quantized, quantized, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.losses["commitment"], loss)
        torch.testing.assert_close(mine.codebook.code_vectors(), other.codebook, rtol=0, atol=1e-5)
    assert (other.codebook - vectors).norm(dim=1).mean() > 0.1


@each_distance
def test_a_residual_stack_is_equal_over_ten_steps_of_ema(distance: str) -> None:
    stages = 4
    other = package.ResidualVQ(
        dim=DIM, num_quantizers=stages, codebook_size=SIZE, decay=0.9, use_cosine_sim=distance != "euclidean"
    )
    options = {"distance": distance, "update": EMA(0.9, epsilon=1e-5 * SIZE / ROWS, dead_ratio=0)}
    mine = ResidualVQ([ours(random_vectors(distance), **options) for _ in range(stages)])
    for layer, stage in zip(other.layers, mine.stages, strict=True):
        layer.codebook = stage.codebook.vectors
        count_as_ours(layer, ROWS)
    for _ in range(10):
        x = torch.randn(4, ROWS // 4, DIM)
        quantized, codes, losses = other(x)
        result = mine(x)
        assert torch.equal(result.codes, codes.movedim(-1, 1))
        torch.testing.assert_close(result.quantized, quantized, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.losses["commitment"], losses.mean())
        vectors = torch.stack([stage.codebook.code_vectors() for stage in mine.stages])
        torch.testing.assert_close(vectors, other.codebooks, rtol=0, atol=1e-5)


def test_an_own_optimizer_takes_equal_steps() -> None:
    def optimizer(parameters) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.05)

    vectors = random_vectors()
    mine = ours(vectors, update=InPlace(optimizer, dead_ratio=0))
    other = theirs(vectors, learnable_codebook=True, ema_update=False, in_place_codebook_optimizer=optimizer)
    for _ in range(10):
        x = torch.randn(4, 50, DIM)
        other(x)
        mine(x)
        torch.testing.assert_close(mine.codebook.vectors, other.codebook.detach(), rtol=0, atol=1e-5)
    assert (mine.codebook.vectors - vectors).abs().mean() > 0.1


def test_the_gradient_of_a_learned_codebook_is_equal() -> None:
    vectors, x = random_vectors(), torch.randn(4, 50, DIM, requires_grad=True)
    other = theirs(vectors, learnable_codebook=True, ema_update=False)
    mine = ours(vectors, update=Gradient(dead_ratio=0))
    (expected,) = torch.autograd.grad(other(x)[2], other._codebook.embed)  # one loss, of both gradients
    (gradient,) = torch.autograd.grad(mine(x).losses["codebook"], mine.codebook.vectors)
    torch.testing.assert_close(gradient, expected[0])


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
@each_distance
def test_the_gradient_of_the_estimator_is_equal(estimator: str, distance: str) -> None:
    vectors, x, weights = random_vectors(distance), torch.randn(4, 50, DIM, requires_grad=True), torch.randn(4, 50, DIM)
    other = theirs(vectors, distance, rotation_trick=estimator == "rotation")
    mine = ours(vectors, distance=distance, estimator=estimator)
    (expected,) = torch.autograd.grad((other(x)[0] * weights).sum(), x)
    (gradient,) = torch.autograd.grad((mine(x).quantized * weights).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_codes_are_drawn_as_often(temperature: float) -> None:
    vectors, x = random_vectors("unit_cosine", 4), torch.randn(DIM).expand(1, 50_000, DIM)
    other = theirs(vectors, "unit_cosine", stochastic_sample_codes=True, sample_codebook_temp=temperature)
    mine = ours(vectors, distance="unit_cosine", estimator="stochastic", temperature=temperature)
    shares = [codes.flatten().bincount(minlength=4) / x.shape[1] for codes in (mine(x).codes, other(x)[1])]
    torch.testing.assert_close(*shares, rtol=0, atol=0.01)


def test_the_orthogonal_loss_is_equal() -> None:
    vectors, x = random_vectors(), torch.randn(1, 10, DIM)
    options = {"learnable_codebook": True, "ema_update": False}  # else its loss is of the vectors after the update
    other = theirs(vectors, orthogonal_reg_weight=1.0, orthogonal_reg_active_codes_only=True, **options)
    mine = ours(vectors, regularizers=[Orthogonal()], update=Gradient())
    torch.testing.assert_close(mine(x).losses["orthogonal"], other(x, return_loss_breakdown=True)[3].orthogonal_reg)


def test_the_cross_entropy_commitment_of_cosine_distances_is_equal() -> None:
    vectors, x = random_vectors("unit_cosine"), torch.randn(4, 50, DIM)
    other = theirs(vectors, "unit_cosine", commitment_use_cross_entropy_loss=True)
    mine = ours(vectors, distance="unit_cosine", commitment="cross_entropy")
    torch.testing.assert_close(mine(x).losses["commitment"], other(x)[2])


# Code vectors that differ.


def test_code_vectors_that_nobody_uses_stay_and_do_not_decay_to_zero() -> None:
    # As the package starts. Its smoothing adds to the count and not to the sum, which in time is the smaller.
    vectors = random_vectors()
    mine, other = ours(vectors, update=EMA(0.8, dead_ratio=0)), theirs(vectors, decay=0.8)
    x = vectors[0].expand(1, 100, DIM) + 0.01 * torch.randn(1, 100, DIM)
    for _ in range(100):
        mine(x)
        other(x)
    assert torch.equal(mine.codebook.vectors[1:], vectors[1:])
    assert (other.codebook[1:].norm(dim=1) < 0.01 * vectors[1:].norm(dim=1)).all()


def test_a_batch_twice_over_teaches_the_same() -> None:
    # Theirs starts with a count of 1 a code, to which a batch of twice the rows adds twice as much.
    vectors, x = random_vectors(), torch.randn(1, 100, DIM)
    learned = []
    for batch in (x, x.repeat(1, 2, 1)):
        mine, other = ours(vectors, update=EMA(0.8, dead_ratio=0)), theirs(vectors, decay=0.8)
        mine(batch)
        other(batch)
        learned.append((mine.codebook.vectors, other.codebook))
    torch.testing.assert_close(learned[0][0], learned[1][0])
    assert (learned[0][1] - learned[1][1]).abs().max() > 0.01


def test_a_small_batch_does_not_make_every_code_a_dead_one() -> None:
    # Uniform use throughout; theirs counts 2 rows a batch for a living code, and 16 rows on 64 codes are 1/4.
    vectors = random_vectors(size=64)
    mine = ours(vectors, update=EMA(0.9, dead_ratio=0.1))
    other = theirs(vectors, decay=0.9, threshold_ema_dead_code=2)
    for batch in vectors[torch.randperm(64)].split(16) * 5:
        mine(batch[None])
        other(batch[None])
    torch.testing.assert_close(mine.codebook.vectors, vectors, rtol=1e-3, atol=1e-3)
    lost = torch.cdist(vectors, other.codebook).amin(1) > 0.1
    assert lost.float().mean() > 0.1


def test_a_codebook_shared_by_stages_forgets_as_one_of_its_own_does() -> None:
    # Theirs decays once a stage.
    vectors = torch.cat([random_vectors(), torch.full((1, DIM), 1e3)])  # nobody chooses the last
    stage = ours(vectors, update=EMA(0.8, dead_ratio=0))
    mine = ResidualVQ([stage] * 3)
    options = {"num_quantizers": 3, "codebook_size": len(vectors), "shared_codebook": True}
    other = package.ResidualVQ(dim=DIM, decay=0.8, **options)
    other.layers[0].codebook = vectors
    x = torch.randn(1, 100, DIM)
    mine(x)
    other(x)
    assert stage.codebook.usage[-1].item() == pytest.approx(0.8 / len(vectors))
    assert other.layers[0]._codebook.cluster_size[0, -1].item() == pytest.approx(0.8**3)


def test_a_first_batch_smaller_than_the_codebook_leaves_something_for_every_stage() -> None:
    x = torch.randn(1, 20, DIM)
    mine = ResidualVQ([VectorQuantize(DIM, 64, channel_last=True) for _ in range(3)])
    other = package.ResidualVQ(dim=DIM, num_quantizers=3, codebook_size=64, kmeans_init=True)
    mine(x)
    other(x)
    assert all(stage.codebook.vectors.abs().max() > 0.1 for stage in mine.stages)
    assert all(vectors.abs().max() < 1e-4 for vectors in other.codebooks[1:])


def test_eval_mode_never_places_code_vectors() -> None:
    mine, other = VectorQuantize(DIM, SIZE).eval(), theirs(random_vectors(), kmeans_init=True).eval()
    other(torch.randn(1, 50, DIM))
    assert other._codebook.initted
    with pytest.raises(RuntimeError, match=r"^the codebook must be initialized"):
        mine(torch.randn(1, DIM, 50))


def test_affine_statistics_stand_still_in_eval_mode_and_are_restored() -> None:
    mine, other = ours(random_vectors(), affine=Affine()), theirs(random_vectors(), affine_param=True)
    x, later = torch.randn(1, 50, DIM), torch.randn(1, 50, DIM) + 3
    mine(x)
    other(x)
    mine.eval(), other.eval()
    assert torch.equal(mine(later).quantized, mine(later).quantized)
    assert not torch.equal(other(later)[0], other(later)[0])

    restored = VectorQuantize(DIM, SIZE, channel_last=True, affine=Affine()).eval()
    restored.load_state_dict(mine.state_dict())
    assert torch.equal(restored(later).quantized, mine(later).quantized)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*batch_mean"):
        theirs(random_vectors(), affine_param=True).load_state_dict(other.state_dict())


# Gradients that differ.


def test_a_silent_row_gets_its_code_vector_and_a_gradient_of_one() -> None:
    # Their rotation divides by a length of 0, clamped to 1e-6.
    vectors, x = random_vectors(), torch.zeros(1, 1, DIM, requires_grad=True)
    mine, other = ours(vectors, estimator="rotation"), theirs(vectors)
    quantized, codes, _ = other(x)
    result = mine(x)
    assert torch.equal(result.quantized, vectors[result.codes])
    assert not quantized.any()
    assert vectors[codes].abs().min() > 0
    assert torch.equal(torch.autograd.grad(result.quantized.sum(), x)[0], torch.ones_like(x))
    assert torch.autograd.grad(quantized.sum(), x)[0].abs().max() > 1e5


def test_the_gradient_is_not_multiplied_by_the_number_of_stages() -> None:
    x = torch.randn(1, 50, DIM, requires_grad=True)
    mine = ResidualVQ([ours(random_vectors()) for _ in range(4)])
    other = package.ResidualVQ(dim=DIM, num_quantizers=4, codebook_size=SIZE, rotation_trick=False)
    assert torch.equal(torch.autograd.grad(mine(x).quantized.sum(), x)[0], torch.ones_like(x))
    assert torch.equal(torch.autograd.grad(other(x)[0].sum(), x)[0], torch.full_like(x, 4))


def test_a_synchronous_update_reaches_the_code_vectors_and_leaves_the_encoder_alone() -> None:
    vectors, x = random_vectors(), torch.randn(1, 50, DIM, requires_grad=True)
    mine = ours(vectors, update=Gradient(synchronous=0.5))
    options = {"learnable_codebook": True, "ema_update": False, "rotation_trick": False}
    other = theirs(vectors, sync_update_v=0.5, **options)
    result = mine(x)
    gradients = torch.autograd.grad(result.quantized.sum(), (x, mine.codebook.vectors))
    assert torch.equal(gradients[0], torch.ones_like(x))
    counts = result.codes.flatten().bincount(minlength=SIZE)
    assert torch.equal(gradients[1], 0.5 * counts[:, None].expand(SIZE, DIM))
    gradients = torch.autograd.grad(other(x)[0].sum(), (x, other._codebook.embed), allow_unused=True)
    assert torch.equal(gradients[0], torch.full_like(x, 1.5))
    assert gradients[1] is None


# Losses that differ.


def test_diversity_is_of_the_rows_together_not_of_each_one() -> None:
    # Every code once in the one example of the batch. Theirs is the negative entropy of each position's mean over the
    # batch, so that a row that is sure of its code counts as no diversity at all.
    vectors = 10 * torch.eye(4)
    mine = ours(vectors, regularizers=[Diversity()])
    other = theirs(vectors, codebook_diversity_loss_weight=1.0)
    assert mine(vectors[None]).losses["diversity"].item() == pytest.approx(0, abs=1e-5)
    breakdown = other(vectors[None], return_loss_breakdown=True)[3]
    assert breakdown.codebook_diversity.item() == pytest.approx(0, abs=1e-5)  # the highest that it can be
    wavering = torch.zeros(1, 4, 4)
    assert other(wavering, return_loss_breakdown=True)[3].codebook_diversity < -1


def test_logits_are_squared_distances() -> None:
    # As in the log-likelihood of a Gaussian; theirs are distances.
    vectors, x = random_vectors(), torch.randn(1, 50, DIM)
    mine = ours(vectors, commitment="cross_entropy")(x)
    other = theirs(vectors, commitment_use_cross_entropy_loss=True)(x)[2]
    for loss, logits in (
        (mine.losses["commitment"], -(torch.cdist(x, vectors) ** 2)),
        (other, -torch.cdist(x, vectors)),
    ):
        expected = torch.nn.functional.cross_entropy(logits[0], mine.codes[0])
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


# Masks that differ.


def test_a_mask_of_ones_is_no_mask() -> None:
    # With it, theirs measures the loss to the rows before they are scaled.
    vectors, x, ones = random_vectors("unit_cosine"), 3 * torch.randn(2, 50, DIM), torch.ones(2, 50, dtype=torch.bool)
    mine, other = ours(vectors, distance="unit_cosine", update=EMA(0.99)), theirs(vectors, "unit_cosine", decay=0.99)
    losses = [[copy.deepcopy(mine)(x, mask).losses["commitment"] for mask in (None, ones)]]
    losses.append([copy.deepcopy(other)(x, mask=mask)[2] for mask in (None, ones)])
    assert losses[0][0] == losses[0][1]
    assert losses[1][1] > 2 * losses[1][0]


def test_a_mask_goes_with_a_projection() -> None:
    x, mask = torch.randn(2, 50, DIM), torch.ones(2, 50, dtype=torch.bool)
    mine = VectorQuantize(DIM, SIZE, codebook_dim=4, channel_last=True)
    assert mine(x, mask).losses["commitment"] > 0
    with pytest.raises(RuntimeError, match="must match"), pytest.warns(UserWarning, match="target size"):
        package.VectorQuantize(dim=DIM, codebook_size=SIZE, codebook_dim=4)(x, mask=mask)


def test_what_stands_in_the_padding_reaches_no_code_vector() -> None:
    vectors, x, mask = random_vectors(), torch.randn(2, 50, DIM), torch.arange(50).expand(2, 50) < 40
    x[~mask] = float("nan")
    mine, other = ours(vectors), theirs(vectors)
    mine(x, mask)
    other(x, mask=mask)
    assert mine.codebook.vectors.isfinite().all()
    assert other.codebook.isnan().any()


# Stacks that differ.


def test_quantizer_dropout_is_drawn_for_each_example_and_every_stage_learns() -> None:
    # Theirs: one depth for all of them, and the stages after it see nothing.
    x = torch.randn(8, 50, DIM)
    mine = ResidualVQ([ours(random_vectors(), update=Frozen()) for _ in range(4)], dropout=1.0)
    other = package.ResidualVQ(dim=DIM, num_quantizers=4, codebook_size=SIZE, quantize_dropout=True)
    result = mine(x)
    depths = [
        [torch.allclose(one, mine.decode(codes[None, :count])[0], atol=1e-5) for count in range(1, 5)].index(True)
        for one, codes in zip(result.quantized, result.codes, strict=True)
    ]
    assert len(set(depths)) > 1
    assert all(stage.codebook.steps == 1 for stage in mine.stages)
    codes = other(x, rand_quantize_dropout_fixed_seed=1)[1]
    assert [(part == -1).all().item() for part in codes.unbind(-1)] == [False, False, True, True]
    assert [(layer._codebook.cluster_size == 1).all().item() for layer in other.layers] == [False, False, True, True]


@pytest.mark.parametrize("beam_size", [2, 4, 8])
def test_a_beam_is_ranked_by_what_is_left_in_the_end(beam_size: int) -> None:
    # Theirs adds up what is left after each stage.
    x = torch.randn(1, 500, DIM)
    other = package.ResidualVQ(dim=DIM, num_quantizers=4, codebook_size=SIZE, beam_size=beam_size).eval()
    mine = ResidualVQ([ours(random_vectors() / (index + 1)) for index in range(4)]).eval()
    for layer, stage in zip(other.layers, mine.stages, strict=True):
        layer.codebook = stage.codebook.vectors
    nearest, theirs_found, found = (
        (x - mine.decode(codes)).square().sum(2).mean().item()
        for codes in (mine.encode(x), other(x)[1].movedim(-1, 1), mine.encode(x, beam_size=beam_size))
    )
    assert found < 0.99 * theirs_found < theirs_found < nearest


# Precision and memory that differ.


def test_autocast_to_bfloat16_does_not_choose_other_codes() -> None:
    vectors, x = random_vectors(size=256), torch.randn(1, 1000, DIM)
    mine, other = ours(vectors).eval(), theirs(vectors).eval()
    expected = mine.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mine.encode(x), expected)
        assert (other(x)[1] != expected).float().mean() > 0.01


def test_latents_far_from_the_origin_lose_no_digits() -> None:
    vectors, x = 1000 + random_vectors(size=256), 1000 + torch.randn(1, 1000, DIM)
    expected = torch.cdist(x.double(), vectors.double()).argmin(2)
    assert (ours(vectors).encode(x) != expected).float().mean() < 0.005
    assert (theirs(vectors).eval()(x)[1] != expected).float().mean() > 0.1


def test_memory_is_that_of_a_block_and_not_of_all_rows_and_codes(
    largest_tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, size, block = 2048, 256, 16384
    monkeypatch.setattr(distance_module, "BLOCK_ELEMENTS", block)
    vectors, x = random_vectors(size=size), torch.randn(1, rows, DIM)
    for quantizer, elements in ((ours(vectors), block), (theirs(vectors), rows * size)):
        largest_tensor.elements = 0
        with largest_tensor:
            quantizer(x)
        assert largest_tensor.elements == elements
