import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Frozen, Gradient, Quantization, VectorQuantize
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import UPDATES

DIM, SIZE = 6, 16

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
hard_estimator = pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
each_update = pytest.mark.parametrize("update", UPDATES)
each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS)
each_codebook_dim = pytest.mark.parametrize("codebook_dim", [None, 3])

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


# Shapes.


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
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
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


def test_projections_learn() -> None:
    quantizer = trained(codebook_dim=3).train()
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
        outcomes.append((result, mask, {**state(quantizer), **result.losses}))
    for result, mask, values in outcomes:
        assert torch.equal(result.quantized.movedim(1, -1)[mask], outcomes[0][0].quantized.movedim(1, -1)[mask])
        assert torch.equal(result.codes[mask], outcomes[0][0].codes[mask])
        assert_same(values, outcomes[0][2])


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


# State and precision.


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


@each_codebook_dim
@pytest.mark.parametrize("call", ["forward", "encode", "decode"])
def test_autocast_to_bfloat16_changes_nothing(codebook_dim: int | None, call: str) -> None:
    quantizer = trained(codebook_dim=codebook_dim)
    x = torch.randn(3, DIM, 200)
    codes = quantizer.encode(x)
    run: Callable[[], Tensor | Quantization] = {
        "forward": lambda: quantizer(x),
        "encode": lambda: quantizer.encode(x),
        "decode": lambda: quantizer.decode(codes),
    }[call]
    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        result = run()
    if isinstance(result, Quantization):
        assert_same(result, expected)
    else:
        assert torch.equal(result, expected)


def test_learning_under_autocast_is_learning_in_float32() -> None:
    quantizer = make(codebook_dim=3)
    under_autocast = copy.deepcopy(quantizer)
    for _ in range(3):
        x = torch.randn(3, DIM, 50)
        expected = quantizer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(under_autocast(x), expected)
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
        ({"distance": "manhattan"}, r"^distance must be one of cosine, euclidean; got 'manhattan'"),
        ({"estimator": "rotate"}, r"^estimator must be one of gumbel_softmax, rotation, .* did you mean 'rotation'\?$"),
        ({"initializer": "zeros"}, r"^initializer must be one of kmeans, samples, uniform; got 'zeros'"),
        ({"temperature": 0.0}, r"^temperature must be positive; got 0\.0$"),
        ({"temperature": -1.0}, r"^temperature must be positive; got -1\.0$"),
        ({"temperature": float("nan")}, r"^temperature must be positive; got nan$"),
        ({"codebook_dim": 0}, r"^dim, codebook_size and codebook_dim must be positive; got 6, 16, 0$"),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(("dim", "size"), [(0, 16), (6, 0), (-1, 16), (6, -1)])
def test_a_size_that_is_not_positive_is_refused(dim: int, size: int) -> None:
    message = rf"^dim, codebook_size and codebook_dim must be positive; got {dim}, {size}, {dim}$"
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
