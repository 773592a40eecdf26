import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from codec.quantize import (
    EMA,
    Affine,
    Diversity,
    Frozen,
    Gradient,
    InPlace,
    Orthogonal,
    Quantization,
    VectorQuantize,
)
from codec.quantize.distance import DISTANCES, direction
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import UPDATES

DIM, SIZE = 6, 16

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
hard_estimator = pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
TEMPERED = [name for name, estimator in ESTIMATORS.items() if estimator.tempered]
each_update = pytest.mark.parametrize("update", UPDATES)
each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS)
each_distance = pytest.mark.parametrize("distance", DISTANCES)
each_codebook_dim = pytest.mark.parametrize("codebook_dim", [None, 3])
each_heads = pytest.mark.parametrize("separate_codebooks", [False, True])

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def make(**options) -> VectorQuantize:
    return VectorQuantize(DIM, SIZE, **options)


def trained(**options) -> VectorQuantize:
    """A quantizer that has seen a batch, in eval mode."""
    quantizer = make(**options)
    quantizer(torch.randn(4, 20, DIM) if quantizer.channel_last else torch.randn(4, DIM, 20))
    return quantizer.eval()


def state(quantizer: VectorQuantize) -> dict[str, Tensor]:
    return copy.deepcopy(quantizer.state_dict())


# What it computes.


def test_every_vector_becomes_its_nearest_code_vector() -> None:
    quantizer = trained()
    x = torch.randn(2, DIM, 5)
    result = quantizer(x)
    for example in range(2):
        for frame in range(5):
            distances = (quantizer.codebook.vectors - x[example, :, frame]).norm(dim=1)
            assert result.codes[example, frame] == distances.argmin()
            assert torch.equal(result.quantized[example, :, frame], quantizer.codebook.vectors[distances.argmin()])


def test_the_losses_are_mean_squared_differences() -> None:
    quantizer = trained(update=Gradient())
    x = torch.randn(2, DIM, 5)
    result = quantizer(x)
    expected = sum((a - b) ** 2 for a, b in zip(x.flatten(), result.quantized.flatten(), strict=True)) / x.numel()
    torch.testing.assert_close(result.losses["commitment"], expected)
    torch.testing.assert_close(result.losses["codebook"], expected)


@each_update
def test_there_is_a_codebook_loss_where_the_codebook_learns_by_gradient(update: str) -> None:
    losses = trained(update=UPDATES[update]()).train()(torch.randn(2, DIM, 5)).losses
    assert set(losses) == ({"commitment", "codebook"} if update == "gradient" else {"commitment"})


@pytest.mark.parametrize("training", [True, False])
def test_losses_are_measured_in_the_space_of_the_code_vectors(training: bool) -> None:
    quantizer = trained(codebook_dim=3).train(training)
    vectors = quantizer.codebook.vectors.clone()
    x = torch.randn(2, DIM, 5)
    result = quantizer(x)
    projected = quantizer.project_in(x.movedim(1, -1))
    torch.testing.assert_close(result.losses["commitment"], (projected - vectors[result.codes]).square().mean())


def test_a_training_step_returns_the_vectors_from_before_it() -> None:
    quantizer = trained(update=EMA(decay=0.5)).train()
    vectors = quantizer.codebook.vectors.clone()
    x = torch.randn(2, DIM, 5)
    result = quantizer(x)
    assert not torch.equal(quantizer.codebook.vectors, vectors)
    assert torch.equal(result.quantized, vectors[result.codes].movedim(-1, 1))
    loss = (x - vectors[result.codes].movedim(-1, 1)).square().mean()
    torch.testing.assert_close(result.losses["commitment"], loss)


@pytest.mark.parametrize("training", [True, False])
@each_distance
def test_the_commitment_loss_may_be_a_cross_entropy(training: bool, distance: str) -> None:
    quantizer = trained(update=Gradient(), distance=distance, commitment="cross_entropy").train(training)
    vectors = quantizer.codebook.snapshot().detach()
    x = torch.randn(2, DIM, 5, requires_grad=True)
    result = quantizer(x)
    expected = cross_entropy_by_hand(quantizer, x, vectors, result.codes)
    torch.testing.assert_close(result.losses["commitment"], expected)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (result.losses["commitment"], expected)]
    torch.testing.assert_close(*gradients)
    # The code vectors learn from the codebook loss, which is no cross-entropy.
    torch.testing.assert_close(
        result.losses["codebook"], (prepared(x, quantizer) - vectors[result.codes]).square().mean()
    )


def test_regularizers_stand_in_the_result_by_their_names() -> None:
    quantizer = make(update=Gradient(), regularizers=[Diversity(), Orthogonal()])
    for training in (True, False):
        losses = quantizer.train(training)(torch.randn(2, DIM, 20)).losses
        assert list(losses) == ["commitment", "codebook", "diversity", "orthogonal"]
        assert all(loss.shape == () and loss > 0 for loss in losses.values())


def prepared(x: Tensor, quantizer: VectorQuantize) -> Tensor:
    """Vectors as they are compared with code vectors, [batch, *positions, dim]."""
    last = x.movedim(1, -1)
    return direction(last) if quantizer.distance.unit else last


def cross_entropy_by_hand(quantizer: VectorQuantize, x: Tensor, vectors: Tensor, codes: Tensor) -> Tensor:
    """Over the positions whose code is known."""
    known = codes >= 0
    rows = prepared(x, quantizer)[known]
    return F.cross_entropy(-quantizer.distance.measure(rows, vectors), codes[known])


# Heads.


@each_update
@each_distance
def test_heads_with_one_codebook_are_one_quantizer_of_the_parts(update: str, distance: str) -> None:
    options = {"update": UPDATES[update](decay=0.5), "distance": distance}
    heads = make(heads=2, **options)
    alone = VectorQuantize(DIM // 2, SIZE, **options)
    for training in (True, True, True, False):
        x, mask = torch.randn(3, DIM, 20), torch.rand(3, 20) < 0.7
        result = heads.train(training)(x, mask)
        parts = rearrange(x, "b (h d) t -> b d t h", h=2)
        expected = alone.train(training)(parts, mask[..., None].expand(-1, -1, 2))
        assert torch.equal(result.quantized, rearrange(expected.quantized, "b d t h -> b (h d) t"))
        assert torch.equal(result.codes, rearrange(expected.codes, "b t h -> b h t"))
        assert_same(result.losses, expected.losses)
        assert_same(state(heads), state(alone))


@each_update
@each_distance
def test_heads_with_codebooks_of_their_own_are_quantizers_of_the_parts(update: str, distance: str) -> None:
    options = {"update": UPDATES[update](decay=0.5), "distance": distance}
    heads = make(heads=3, separate_codebooks=True, **options)
    alone = [VectorQuantize(DIM // 3, SIZE, **options) for _ in range(3)]
    for number, each in enumerate(alone):
        each.codebook.number = number
    for training in (True, True, True, False):
        x, mask = torch.randn(3, DIM, 20), torch.rand(3, 20) < 0.7
        result = heads.train(training)(x, mask)
        expected = [each.train(training)(part, mask) for each, part in zip(alone, x.chunk(3, dim=1), strict=True)]
        assert torch.equal(result.quantized, torch.cat([each.quantized for each in expected], dim=1))
        assert torch.equal(result.codes, torch.stack([each.codes for each in expected], dim=1))
        for name, loss in result.losses.items():
            assert_same(loss, torch.stack([each.losses[name] for each in expected]).mean())
        for codebook, each in zip(heads.codebooks, alone, strict=True):
            assert_same(codebook.state_dict(), each.codebook.state_dict())


def test_heads_with_codebooks_of_their_own_draw_rows_of_their_own() -> None:
    quantizer = make(heads=2, separate_codebooks=True, initializer="samples")
    quantizer(torch.randn(2, DIM // 2, 400).repeat(1, 2, 1))
    first, second = quantizer.codebooks
    assert not torch.equal(first.vectors, second.vectors)


@each_heads
@pytest.mark.parametrize("codebook_dim", [None, 2, 3, 5])
def test_heads_choose_codes_in_their_part_of_the_projection(separate_codebooks: bool, codebook_dim: int | None) -> None:
    quantizer = trained(heads=2, separate_codebooks=separate_codebooks, codebook_dim=codebook_dim)
    assert isinstance(quantizer.project_in, torch.nn.Identity) == (codebook_dim in (None, 3))
    codebooks = quantizer.codebooks if separate_codebooks else quantizer.codebooks * 2
    x = torch.randn(2, DIM, 5)
    result = quantizer(x)
    assert result.codes.shape == (2, 2, 5)
    for example in range(2):
        for frame in range(5):
            parts = quantizer.project_in(x[example, :, frame]).chunk(2)
            codes = [(book.vectors - part).norm(dim=1).argmin() for book, part in zip(codebooks, parts, strict=True)]
            assert result.codes[example, :, frame].tolist() == codes
            chosen = torch.cat([book.vectors[code] for book, code in zip(codebooks, codes, strict=True)])
            torch.testing.assert_close(result.quantized[example, :, frame], quantizer.project_out(chosen))


# Shapes.


@each_heads
@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("positions", [(), (7,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_heads_stand_before_the_positions(
    separate_codebooks: bool, channel_last: bool, positions: tuple[int, ...], batch: int
) -> None:
    quantizer = trained(heads=3, separate_codebooks=separate_codebooks, channel_last=channel_last)
    x = torch.randn(batch, *positions, DIM) if channel_last else torch.randn(batch, DIM, *positions)
    for training in (True, False):
        result = quantizer.train(training)(x, torch.ones(batch, *positions))
        assert result.quantized.shape == x.shape
        assert result.codes.shape == quantizer.encode(x).shape == (batch, 3, *positions)
    assert torch.equal(quantizer.encode(x), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)


@each_estimator
@pytest.mark.parametrize("positions", [(), (1,), (7,), (3, 4), (1, 1), (2, 3, 4)])
@pytest.mark.parametrize("batch", [1, 2])
def test_any_number_of_positions_keeps_its_axes(estimator: str, positions: tuple[int, ...], batch: int) -> None:
    quantizer = trained(estimator=estimator)
    x = torch.randn(batch, DIM, *positions)
    for training in (True, False):
        result = quantizer.train(training)(x, torch.ones(batch, *positions))
        assert result.quantized.shape == x.shape
        assert result.codes.shape == quantizer.encode(x).shape == (batch, *positions)
        assert result.losses["commitment"].shape == ()
        assert quantizer.decode(result.codes).shape == x.shape


@each_codebook_dim
@pytest.mark.parametrize("positions", [(7,), (3, 4)])
def test_the_channel_may_come_last(codebook_dim: int | None, positions: tuple[int, ...]) -> None:
    first = trained(codebook_dim=codebook_dim)
    last = make(codebook_dim=codebook_dim, channel_last=True)
    last.load_state_dict(first.state_dict())
    x, mask = torch.randn(2, DIM, *positions), torch.rand(2, *positions) < 0.7
    for training in (False, True):
        expected = first.train(training)(x, mask)
        result = last.train(training)(x.movedim(1, -1), mask)
        assert_same(result._replace(quantized=result.quantized.movedim(-1, 1)), expected)
        assert_same(state(last), state(first))
    assert torch.equal(last.encode(x.movedim(1, -1)), first.encode(x))
    assert torch.equal(last.decode(expected.codes).movedim(-1, 1), first.decode(expected.codes))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, DIM, 5), (2, DIM, 0)])
def test_nothing_is_quantized_to_nothing(shape: tuple[int, ...], training: bool) -> None:
    quantizer = trained().train(training)
    before = state(quantizer)
    result = quantizer(torch.zeros(shape))
    assert result.quantized.shape == shape
    assert result.losses["commitment"] == 0
    assert_same(state(quantizer), before)


# Codes and back.


@each_estimator
@each_codebook_dim
@each_distance
def test_decode_gives_what_forward_returned_to_the_last_bit(
    estimator: str, codebook_dim: int | None, distance: str
) -> None:
    quantizer = trained(estimator=estimator, codebook_dim=codebook_dim, distance=distance)
    x = torch.randn(3, DIM, 50)
    result = quantizer(x)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)
    assert torch.equal(quantizer.encode(x), result.codes)


@hard_estimator
def test_training_sees_what_decode_gives(estimator: str) -> None:
    quantizer = trained(estimator=estimator, update=Frozen())
    x = torch.randn(3, DIM, 50)
    assert_same(quantizer.train()(x), quantizer.eval()(x))


def test_eval_equals_eval_and_changes_nothing() -> None:
    quantizer = trained(estimator="gumbel_softmax")
    before = state(quantizer)
    x = torch.randn(3, DIM, 50)
    assert_same(quantizer(x), quantizer(x))
    assert_same(state(quantizer), before)


def test_encode_never_changes_state() -> None:
    quantizer = trained(estimator="gumbel_softmax").train()
    before = state(quantizer)
    x = torch.randn(3, DIM, 50)
    codes = quantizer.encode(x)
    assert torch.equal(codes, quantizer.encode(x))
    assert torch.equal(codes, quantizer.eval().encode(x))
    quantizer.decode(codes)
    assert_same(state(quantizer), before)


# Gradients.


def test_straight_through_passes_ones() -> None:
    x = torch.randn(2, DIM, 5, requires_grad=True)
    trained().train()(x).quantized.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@each_estimator
@each_codebook_dim
def test_the_gradients_of_both_results_arrive(estimator: str, codebook_dim: int | None) -> None:
    quantizer = trained(estimator=estimator, codebook_dim=codebook_dim).train()
    x = torch.randn(2, DIM, 5, requires_grad=True)
    result = quantizer(x)
    for value in (result.quantized.square().sum(), result.losses["commitment"]):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient != 0).any(dim=1).all()


def test_the_gradient_of_the_commitment_loss_points_from_the_code_vector() -> None:
    quantizer = trained(update=Gradient())
    x = torch.randn(2, DIM, 5, requires_grad=True)
    result = quantizer(x)
    result.losses["commitment"].backward()
    torch.testing.assert_close(x.grad, 2 * (x - result.quantized).detach() / x.numel())
    assert quantizer.codebook.vectors.grad is None


def test_the_gradient_of_the_codebook_loss_moves_the_code_vectors_alone() -> None:
    quantizer = trained(update=Gradient(), codebook_dim=3).train()
    x = torch.randn(2, DIM, 5, requires_grad=True)
    result = quantizer(x)
    result.losses["codebook"].backward()
    assert x.grad is None
    assert quantizer.project_in.weight.grad is None
    used = torch.zeros(SIZE, dtype=torch.bool)
    used[result.codes.flatten()] = True
    assert torch.equal((quantizer.codebook.vectors.grad != 0).any(1), used)


@pytest.mark.parametrize("heads", [1, 2])
def test_projections_learn(heads: int) -> None:
    quantizer = trained(codebook_dim=2, heads=heads).train()
    result = quantizer(torch.randn(2, DIM, 5))
    (result.quantized.square().sum() + result.losses["commitment"]).backward()
    for parameter in quantizer.parameters():
        assert parameter.grad.abs().sum() > 0


def test_gradients_survive_more_steps_before_the_backward_pass() -> None:
    quantizer = trained(estimator="gumbel_softmax", update=Gradient(dead_ratio=0.9)).train()
    x = torch.randn(2, DIM, 5, requires_grad=True)
    loss = sum(quantizer(x).quantized.square().sum() for _ in range(3))
    loss.backward()
    assert x.grad.isfinite().all()


# Masks.


GARBAGE = {"zeros": 0.0, "large": 1e30, "infinite": float("inf"), "not a number": float("nan")}


def with_padding(x: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """The batch and a mask, with padding that differs from example to example."""
    mask = torch.arange(x.shape[-1]) < torch.tensor([[x.shape[-1]], [2], [0]])
    return torch.where(mask.unsqueeze(1), x, value), mask


@each_estimator
@each_update
@each_initializer
def test_padding_touches_nothing(estimator: str, update: str, initializer: str) -> None:
    batches = [torch.randn(3, DIM, 10) for _ in range(4)]
    outcomes = []
    for value in GARBAGE.values():
        torch.manual_seed(1)
        quantizer = make(estimator=estimator, update=UPDATES[update](decay=0.5), initializer=initializer)
        for batch in batches:
            x, mask = with_padding(batch, value)
            result = quantizer(x.requires_grad_(), mask)
            sum(result.losses.values()).backward()
            assert not (x.grad != 0).any(1)[~mask].any()
        outcomes.append((*result, state(quantizer)))
    for outcome in outcomes:
        assert_same(outcome, outcomes[0])


@each_codebook_dim
@pytest.mark.parametrize(
    "options", [{}, {"heads": 2}, {"heads": 3, "separate_codebooks": True}, {"channel_last": True}]
)
@pytest.mark.parametrize("training", [True, False])
def test_the_padding_is_zeros(codebook_dim: int | None, options: dict[str, object], training: bool) -> None:
    quantizer = trained(codebook_dim=codebook_dim, **options).train(training)
    x, mask = with_padding(torch.randn(3, DIM, 10), float("nan"))
    result = quantizer(x.movedim(1, -1) if quantizer.channel_last else x, mask)
    quantized = result.quantized if quantizer.channel_last else result.quantized.movedim(1, -1)
    assert (quantized[~mask] == 0).all()
    assert (quantized[mask] != 0).any(1).all()
    codes = result.codes if quantizer.heads == 1 else result.codes.movedim(1, -1)
    assert (codes[~mask] == 0).all()
    assert (codes[mask] != 0).any()


@each_update
@each_initializer
def test_a_padded_batch_teaches_what_its_real_frames_do(update: str, initializer: str) -> None:
    padded, alone = (make(update=UPDATES[update](decay=0.5), initializer=initializer) for _ in range(2))
    for _ in range(4):
        x, mask = with_padding(torch.randn(3, DIM, 10), 7.0)
        result = padded(x, mask)
        real = x.movedim(1, -1)[mask]
        expected = alone(real.T[None])
        assert torch.equal(result.codes[mask], expected.codes[0])
        assert_same(result.losses, expected.losses)
    assert_same(state(padded), state(alone))


@each_estimator
@each_update
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_of_ones_is_no_mask(estimator: str, update: str, dtype: torch.dtype) -> None:
    quantizer = make(estimator=estimator, update=UPDATES[update](decay=0.5))
    masked = copy.deepcopy(quantizer)
    for _ in range(3):
        x = torch.randn(3, DIM, 10)
        seed = torch.randint(1000, ()).item()
        torch.manual_seed(seed)
        expected = quantizer(x)
        torch.manual_seed(seed)
        assert_same(masked(x, torch.ones(3, 10, dtype=dtype)), expected)
    assert_same(state(masked), state(quantizer))


@each_update
@pytest.mark.parametrize("fresh", [True, False])
def test_a_batch_of_padding_teaches_nothing(update: str, fresh: bool) -> None:
    quantizer = make(update=UPDATES[update]()) if fresh else trained(update=UPDATES[update]()).train()
    before = state(quantizer)
    result = quantizer(torch.randn(2, DIM, 5), torch.zeros(2, 5))
    assert all(loss == 0 for loss in result.losses.values())
    assert_same(state(quantizer), before)


@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_lengths_are_the_mask_they_stand_for(channel_last: bool, heads: int) -> None:
    by_lengths = make(channel_last=channel_last, heads=heads)
    by_mask = copy.deepcopy(by_lengths)
    lengths = torch.tensor([10, 3, 0])
    mask = torch.tensor([[frame < length for frame in range(10)] for length in lengths])
    for training in (True, True, False):
        x = torch.randn(3, 10, DIM) if channel_last else torch.randn(3, DIM, 10)
        result = by_lengths.train(training)(x, lengths=lengths)
        assert_same(result, by_mask.train(training)(x, mask))
    assert_same(state(by_lengths), state(by_mask))


# Target codes.


@each_distance
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("unknown", [[], [0, 3], range(10)])
def test_target_codes_give_a_cross_entropy_of_distances(distance: str, training: bool, unknown: list[int]) -> None:
    quantizer = trained(distance=distance, update=Gradient()).train(training)
    vectors = quantizer.codebook.snapshot().detach()
    x = torch.randn(2, DIM, 5, requires_grad=True)
    targets = torch.randint(SIZE, (2, 5))
    targets.view(-1)[unknown] = -1
    loss = quantizer(x, target_codes=targets).losses["cross_entropy"]
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    if len(unknown) == 10:
        assert loss == 0
        assert (gradient == 0).all()
        return
    expected = cross_entropy_by_hand(quantizer, x, vectors, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])
    assert torch.equal((gradient != 0).any(1), targets >= 0)
    loss.backward()
    assert quantizer.codebook.vectors.grad is None


@each_heads
def test_target_codes_of_heads_give_the_mean_of_theirs(separate_codebooks: bool) -> None:
    quantizer = trained(heads=2, separate_codebooks=separate_codebooks, update=Gradient())
    codebooks = quantizer.codebooks if separate_codebooks else quantizer.codebooks * 2
    x, targets = torch.randn(2, DIM, 5), torch.randint(SIZE, (2, 2, 5))
    pairs = zip(codebooks, x.chunk(2, dim=1), targets.unbind(1), strict=True)
    expected = [cross_entropy_by_hand(quantizer, part, book.vectors, codes) for book, part, codes in pairs]
    torch.testing.assert_close(quantizer(x, target_codes=targets).losses["cross_entropy"], sum(expected) / 2)


def test_target_codes_of_the_padding_count_as_little_as_the_padding() -> None:
    quantizer = trained()
    x, mask = with_padding(torch.randn(3, DIM, 10), float("nan"))
    targets = torch.randint(SIZE, (3, 10))
    expected = quantizer(x.movedim(1, -1)[mask].T[None], target_codes=targets[mask][None])
    assert_same(quantizer(x, mask, target_codes=targets).losses, expected.losses)


def test_target_codes_change_nothing_else() -> None:
    with_targets, without = (make(update=EMA(decay=0.5)) for _ in range(2))
    for _ in range(3):
        x = torch.randn(2, DIM, 20)
        result, expected = with_targets(x, target_codes=torch.randint(SIZE, (2, 20))), without(x)
        assert result.losses.pop("cross_entropy") > 0
        assert_same(result, expected)
    assert_same(state(with_targets), state(without))


# Learning when told to.


EACH_MANUAL = {
    "ema": EMA(decay=0.5),
    "in_place": InPlace(partial(torch.optim.SGD, lr=0.5, momentum=0.5), decay=0.5),
    "adam": InPlace(decay=0.5),
    "gradient": Gradient(decay=0.5, dead_ratio=0.9),
    "frozen": Frozen(decay=0.5),
}


@pytest.mark.parametrize("update", EACH_MANUAL)
@pytest.mark.parametrize("options", [{}, {"heads": 2, "separate_codebooks": True}, {"codebook_dim": 3}])
def test_micro_batches_that_are_applied_together_are_one_batch(update: str, options: dict[str, object]) -> None:
    at_once = make(update=EACH_MANUAL[update], **options)
    at_once(torch.randn(5, DIM, 10))
    manual = make(update=EACH_MANUAL[update], manual=True, **options)
    manual.load_state_dict(state(at_once))
    for _ in range(3):
        before = state(manual)
        parts = [torch.randn(2, DIM, 10), torch.randn(0, DIM, 10), torch.randn(3, DIM, 10)]
        results = [manual(part) for part in parts]
        assert_same(state(manual), before)
        expected = at_once(torch.cat(parts))
        # The codes of the last, too, are of the code vectors from before the first.
        assert torch.equal(torch.cat([result.codes for result in results]), expected.codes)
        assert torch.equal(torch.cat([result.quantized for result in results]), expected.quantized)
        manual.apply_update()
        assert_same(state(manual), state(at_once))


def test_a_manual_quantizer_learns_from_no_batch_twice() -> None:
    quantizer = make(manual=True)
    message = r"^a batch must be quantized in training mode, with manual=True, before it is applied$"
    with pytest.raises(RuntimeError, match=message):
        quantizer.apply_update()
    quantizer(torch.randn(2, DIM, 20))
    quantizer.apply_update()
    assert quantizer.codebook.steps == 1
    quantizer.eval()(torch.randn(2, DIM, 20))
    with pytest.raises(RuntimeError, match=message):
        quantizer.apply_update()


# State and precision.


def test_the_state_has_the_names_that_older_weights_have() -> None:
    names = [f"codebook.{name}" for name in ("vectors", "usage", "initialized", "steps")]
    projections = [f"project_{way}.{part}" for way in ("in", "out") for part in ("weight", "bias")]
    assert list(make().state_dict()) == names
    assert list(make(codebook_dim=3).state_dict()) == names + projections
    assert list(make(heads=2).state_dict()) == names
    assert list(make(update=Gradient()).state_dict()) == names


@each_estimator
def test_the_temperature_is_saved_where_it_is_used(estimator: str) -> None:
    quantizer, restored = (make(estimator=estimator) for _ in range(2))
    quantizer.set_temperature(0.25)
    assert ("temperature" in quantizer.state_dict()) == (estimator in TEMPERED)
    restored.load_state_dict(state(quantizer))
    assert restored.temperature == (0.25 if estimator in TEMPERED else 1)


@pytest.mark.parametrize("estimator", TEMPERED)
def test_another_temperature_changes_the_next_step(estimator: str) -> None:
    quantizer = trained(estimator=estimator, update=Frozen(), temperature=1.0).train()
    lower = trained(estimator=estimator, update=Frozen(), temperature=0.2).train()
    lower.codebook.load_state_dict(quantizer.codebook.state_dict())
    x = torch.randn(4, DIM, 50, requires_grad=True)

    def outcome(quantizer: VectorQuantize) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        result = quantizer(x)
        (gradient,) = torch.autograd.grad(result.quantized.square().sum(), x)
        return result.codes, result.quantized, gradient

    before, expected = outcome(quantizer), outcome(lower)
    quantizer.set_temperature(0.2)
    after = outcome(quantizer)
    assert_same(after, expected)
    assert not all(torch.equal(*each) for each in zip(before, after, strict=True))


def test_codes_are_drawn_more_narrowly_at_lower_temperatures() -> None:
    quantizer = trained(estimator="stochastic", update=Frozen())
    x = torch.randn(4, DIM, 200)
    nearest = quantizer.encode(x)
    shares = []
    for temperature in (100.0, 1.0, 0.1, 1e-6):
        quantizer.set_temperature(temperature)
        shares.append((quantizer.train()(x).codes == nearest).float().mean().item())
    assert shares == sorted(shares)
    assert shares[0] < 2 / SIZE
    assert shares[-1] == 1


def test_a_schedule_may_start_at_a_whole_number() -> None:
    quantizer = make(estimator="gumbel_softmax", temperature=1)
    quantizer.set_temperature(0.5)
    assert quantizer.temperature == 0.5


@each_estimator
@each_update
@each_initializer
def test_a_restored_quantizer_takes_the_same_next_step(estimator: str, update: str, initializer: str) -> None:
    options = {"estimator": estimator, "initializer": initializer, "codebook_dim": 3}
    quantizer, restored = (make(update=UPDATES[update](decay=0.5), **options) for _ in range(2))
    quantizer(torch.randn(3, DIM, 10))
    restored.load_state_dict(state(quantizer))
    for _ in range(3):
        x = torch.randn(3, DIM, 10)
        results = []
        for each in (quantizer, restored):
            torch.manual_seed(1)
            results.append(each(x))
        assert_same(*results)
        assert_same(state(restored), state(quantizer))


each_half = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


@each_half
@each_codebook_dim
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("call", ["forward", "encode", "decode"])
def test_autocast_changes_nothing(half: torch.dtype, codebook_dim: int | None, heads: int, call: str) -> None:
    quantizer = trained(codebook_dim=codebook_dim, heads=heads)
    x = torch.randn(3, DIM, 200)
    codes = quantizer.encode(x)
    run: Callable[[], Tensor | Quantization] = {
        "forward": lambda: quantizer(x),
        "encode": lambda: quantizer.encode(x),
        "decode": lambda: quantizer.decode(codes),
    }[call]
    expected = run()
    with torch.autocast("cpu", half):
        result = run()
    if isinstance(result, Quantization):
        assert_same(result, expected)
    else:
        assert torch.equal(result, expected)


@each_half
@each_distance
@pytest.mark.parametrize(
    "options",
    [{"codebook_dim": 3}, {"affine": Affine()}, {"update": InPlace(), "manual": True}, {"commitment": "cross_entropy"}],
)
def test_learning_under_autocast_is_learning_in_float32(
    half: torch.dtype, distance: str, options: dict[str, object]
) -> None:
    quantizer = make(distance=distance, **options)
    under_autocast = copy.deepcopy(quantizer)
    for _ in range(3):
        x, targets = torch.randn(3, DIM, 50), torch.randint(SIZE, (3, 50))
        expected = quantizer(x, target_codes=targets)
        if quantizer.learner.manual:
            quantizer.apply_update()
        with torch.autocast("cpu", half):
            assert_same(under_autocast(x, target_codes=targets), expected)
            if quantizer.learner.manual:
                under_autocast.apply_update()
    assert_same(state(under_autocast), state(quantizer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_result_has_the_type_of_the_input(dtype: torch.dtype) -> None:
    quantizer = trained().train()
    x = torch.randn(2, DIM, 5).to(dtype).requires_grad_()
    result = quantizer(x)
    assert result.quantized.dtype == dtype
    assert result.losses["commitment"].dtype == torch.float32
    (result.quantized.sum() + result.losses["commitment"]).backward()
    assert x.grad.dtype == dtype
    assert quantizer.codebook.vectors.dtype == torch.float32


# Compiled.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distance": "unit_cosine", "codebook_dim": 3, "affine": Affine(), "commitment": "cross_entropy"},
        {"distance": "cosine", "heads": 2, "separate_codebooks": True, "channel_last": True, "update": Gradient()},
    ],
)
def test_compiled_equals_eager(compiled, options: dict[str, object]) -> None:
    quantizer = trained(**options)
    x = torch.randn(2, 20, DIM) if quantizer.channel_last else torch.randn(2, DIM, 20)
    with torch.no_grad():
        expected = quantizer(x)
        assert torch.equal(compiled(quantizer.encode)(x), expected.codes)
        assert torch.equal(compiled(quantizer.decode)(expected.codes), expected.quantized)
        assert_same(compiled(quantizer)(x), expected)


def test_compiled_leaves_the_padding_out(compiled) -> None:
    quantizer = trained()
    x, mask = with_padding(torch.randn(3, DIM, 10), float("nan"))
    assert_same(compiled(quantizer)(x, mask), quantizer(x, mask))


def test_compiled_gradients_are_those_of_eager(compiled) -> None:
    quantizer = trained()
    x = torch.randn(2, DIM, 20, requires_grad=True)
    gradients = [torch.autograd.grad(each(x).losses["commitment"], x)[0] for each in (quantizer, compiled(quantizer))]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("call", ["forward", "encode", "decode"])
def test_compiled_refuses_an_uninitialized_codebook(compiled, call: str) -> None:
    quantizer = make().eval()
    argument = torch.zeros(2, 5, dtype=torch.int64) if call == "decode" else torch.randn(2, DIM, 5)
    with pytest.raises(RuntimeError, match=r"^the codebook must be initialized before it encodes or decodes; train"):
        compiled(getattr(quantizer, call))(argument)


@pytest.mark.parametrize("code", [-1, SIZE])
def test_compiled_refuses_a_code_that_is_not_in_the_codebook(compiled, code: int) -> None:
    with pytest.raises(RuntimeError, match=r"^codes must be in \[0, 16\)"):
        compiled(trained().decode)(torch.tensor([[0, code]]))


# Two ranks.


def learn_on_ranks(rank, quantizer: VectorQuantize, batches: list[Tensor], masks: list[Tensor]) -> tuple:
    """Learn from each batch, four examples at a time, two on each rank; the state, and collectives of each batch."""
    rank.join()
    torch.manual_seed(rank.index)
    collectives = []
    for batch, mask in zip(batches, masks, strict=True):
        before = rank.collectives
        for x, real in zip(batch.split(4), mask.split(4), strict=True):
            quantizer(x.chunk(2)[rank.index], real.chunk(2)[rank.index])
        if quantizer.learner.manual:
            quantizer.apply_update()
        collectives.append(rank.collectives - before)
    return state(quantizer), collectives


@pytest.mark.parametrize(
    "options",
    [
        {"heads": 2, "separate_codebooks": True},
        {"heads": 2, "distance": "unit_cosine"},
        {"manual": True, "update": InPlace(decay=0.8, dead_ratio=0.5)},
        {"manual": True, "heads": 2, "separate_codebooks": True, "affine": Affine(), "codebook_dim": 2},
    ],
)
def test_two_ranks_learn_the_same_as_one(two_ranks, options: dict[str, object]) -> None:
    quantizer = make(**{"update": EMA(decay=0.8, dead_ratio=0.5), **options})
    examples = 8 if quantizer.learner.manual else 4
    batches = [torch.randn(examples, DIM, 31) + number for number in range(5)]
    masks = [torch.rand(examples, 31) < 0.8 for _ in range(5)]
    for part in masks[2].split(4):
        part[:2] = False  # the first rank has nothing but padding
    if quantizer.learner.manual:
        # Not by the ranks, whose first micro-batches hold fewer examples than the joined batch.
        quantizer(batches[0])
        quantizer.apply_update()
    (first, collectives), (second, others) = two_ranks(learn_on_ranks, quantizer, batches, masks)
    assert_same(first, second)
    assert collectives == others
    assert set(collectives[1:]) <= {1, 2}
    for batch, mask in zip(batches, masks, strict=True):
        quantizer(batch, mask)
        if quantizer.learner.manual:
            quantizer.apply_update()
    torch.testing.assert_close(first, state(quantizer), atol=1e-5, rtol=1e-5)


# Refusals.


def test_an_uninitialized_codebook_is_an_error_and_no_row_of_zeros() -> None:
    quantizer = make()
    message = "^the codebook must be initialized before it encodes or decodes; train on a batch or load weights$"
    with pytest.raises(RuntimeError, match=message):
        quantizer.encode(torch.randn(2, DIM, 5))
    with pytest.raises(RuntimeError, match=message):
        quantizer.decode(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=message):
        quantizer.eval()(torch.randn(2, DIM, 5))
    assert not quantizer.codebook.initialized


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "manhattan"}, r"^distance must be one of cosine, euclidean, unit_cosine; got 'manhattan'"),
        ({"estimator": "rotate"}, r"^estimator must be one of gumbel_softmax, .* did you mean 'rotation'\?$"),
        ({"initializer": "zeros"}, r"^initializer must be one of kmeans, samples, uniform; got 'zeros'"),
        ({"temperature": 0.0}, r"^temperature must be positive; got 0\.0$"),
        ({"temperature": -1.0}, r"^temperature must be positive; got -1\.0$"),
        ({"temperature": float("nan")}, r"^temperature must be positive; got nan$"),
        (
            {"temperature": 0.5},
            r"^temperature must be None with an estimator that takes the nearest code; it has none$",
        ),
        ({"commitment": "mae"}, r"^commitment must be one of cross_entropy, mse; got 'mae'"),
        ({"codebook_dim": 0}, r"^dim, codebook_size, codebook_dim and heads must be positive; got 6, 16, 0, 1$"),
        ({"heads": 0}, r"^dim, codebook_size, codebook_dim and heads must be positive; got 6, 16, None, 0$"),
        ({"heads": 4}, r"^dim must be a multiple of heads 4, or codebook_dim be given; got 6$"),
        (
            {"separate_codebooks": True},
            r"^separate_codebooks must be False with one head; there is nothing to separate$",
        ),
        ({"affine": Affine(), "update": Frozen()}, r"^affine must be None with a frozen update: it moves the code"),
        (
            {"regularizers": [Orthogonal()]},
            r"^orthogonal must go with code vectors that learn by gradient, update=Gradient\(\); got EMA, which",
        ),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(("dim", "size"), [(0, 16), (6, 0), (-1, 16), (6, -1)])
def test_a_size_that_is_not_positive_is_refused(dim: int, size: int) -> None:
    message = rf"^dim, codebook_size, codebook_dim and heads must be positive; got {dim}, {size}, None, 1$"
    with pytest.raises(ValueError, match=message):
        VectorQuantize(dim, size)


@pytest.mark.parametrize(
    ("shape", "channel_last", "message"),
    [
        ((2, 5, DIM), False, r"^x must have size 6 along axis 1; got shape \(2, 5, 6\)$"),
        ((DIM,), False, r"^x must have size 6 along axis 1; got shape \(6,\)$"),
        ((2, DIM, 5), True, r"^x must have size 6 along axis -1; got shape \(2, 6, 5\)$"),
    ],
)
def test_another_shape_is_refused(shape: tuple[int, ...], channel_last: bool, message: str) -> None:
    quantizer = trained(channel_last=channel_last)
    with pytest.raises(ValueError, match=message):
        quantizer(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        quantizer.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 5), (5,), (2, 5, 1)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^mask must have shape \(2, 5\); got \("):
        trained()(torch.zeros(2, DIM, 5), torch.ones(shape))


def test_lengths_beside_a_mask_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^mask and lengths must not both be given; they say the same$"):
        trained()(torch.zeros(2, DIM, 5), torch.ones(2, 5), lengths=torch.tensor([5, 5]))


@pytest.mark.parametrize(
    ("positions", "lengths", "shown"),
    [
        ((5,), (3,), r"\(3,\) for positions \(2, 5\)"),
        ((5,), (2, 1), r"\(2, 1\) for positions \(2, 5\)"),
        ((5,), (), r"\(\) for positions \(2, 5\)"),
        ((5, 4), (2,), r"\(2,\) for positions \(2, 5, 4\)"),
        ((), (2,), r"\(2,\) for positions \(2,\)"),
    ],
)
def test_lengths_of_another_shape_are_refused(positions: tuple[int, ...], lengths: tuple[int, ...], shown: str) -> None:
    message = rf"^lengths must be one an example, of x with one position axis; got shape {shown}$"
    with pytest.raises(ValueError, match=message):
        trained()(torch.zeros(2, DIM, *positions), lengths=torch.ones(lengths, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 5), (5,)])
def test_target_codes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"codes must have shape \(2, 5\); got \("):
        trained()(torch.zeros(2, DIM, 5), target_codes=torch.zeros(shape, dtype=torch.int64))


def test_a_target_code_that_is_not_in_the_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match=r"codes must be in \[0, 16\)"):
        trained()(torch.zeros(2, DIM, 5), target_codes=torch.full((2, 5), SIZE))


@each_heads
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 1, 5)])
def test_codes_of_another_number_of_heads_are_refused(separate_codebooks: bool, shape: tuple[int, ...]) -> None:
    quantizer = trained(heads=2, separate_codebooks=separate_codebooks)
    with pytest.raises(ValueError, match=rf"^codes must have shape \(2, 2, 5\); got \(2, {shape[1]}, 5\)$"):
        quantizer.decode(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=rf"^temperature must be positive; got {temperature}$"):
        make(estimator="stochastic").set_temperature(temperature)


@pytest.mark.parametrize(("code", "shown"), [(-1, "-1 to 0"), (SIZE, f"0 to {SIZE}")])
def test_a_code_that_is_not_in_the_codebook_is_refused(code: int, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"^codes must be in \[0, 16\); got {shown}$"):
        trained().decode(torch.tensor([[0, code]]))


def test_nan_in_the_padding_reaches_neither_loss_nor_projection() -> None:
    quantizer = VectorQuantize(dim=6, codebook_size=8, codebook_dim=3)
    x = torch.randn(2, 6, 20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 12:] = False
    x[1, :, 12:] = float("nan")
    result = quantizer(x, mask)
    (result.losses["commitment"] + result.quantized.square().mean()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in quantizer.parameters())
