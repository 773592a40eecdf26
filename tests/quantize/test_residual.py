import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Gradient, Quantization, ResidualVQ, VectorQuantize
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import UPDATES

DIM, SIZE, STAGES = 6, 16, 4

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
each_update = pytest.mark.parametrize("update", UPDATES)
each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS)
each_codebook_dim = pytest.mark.parametrize("codebook_dim", [None, 3])

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def make(dropout: float = 0.0, stages: int = STAGES, **options) -> ResidualVQ:
    return ResidualVQ([VectorQuantize(DIM, SIZE, **options) for _ in range(stages)], dropout)


def trained(dropout: float = 0.0, stages: int = STAGES, **options) -> ResidualVQ:
    """A stack that has seen two batches, in eval mode."""
    quantizer = make(dropout, stages, **options)
    quantizer(torch.randn(4, DIM, 50))
    quantizer(torch.randn(4, DIM, 50))
    return quantizer.eval()


def state(quantizer: ResidualVQ) -> dict[str, Tensor]:
    return copy.deepcopy(quantizer.state_dict())


# What it computes.


@each_codebook_dim
def test_each_stage_quantizes_what_those_before_left(codebook_dim: int | None) -> None:
    quantizer = trained(codebook_dim=codebook_dim)
    x = torch.randn(2, DIM, 5)
    result = quantizer(x)
    left, commitment = x, []
    for index, stage in enumerate(quantizer.stages):
        quantized, codes, losses = stage(left)
        assert torch.equal(result.codes[:, index], codes)
        left = left - quantized
        commitment.append(losses["commitment"])
    torch.testing.assert_close(result.quantized, x - left)
    torch.testing.assert_close(result.losses["commitment"], sum(commitment) / STAGES)


def test_more_stages_leave_less() -> None:
    quantizer = make()
    x = torch.randn(4, DIM, 50)
    quantizer(x)
    codes = quantizer.encode(x)
    errors = [(x - quantizer.decode(codes[:, :count])).norm().item() for count in range(1, STAGES + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * x.norm()


def test_a_stack_of_one_is_a_quantizer() -> None:
    stack = trained(stages=1)
    stage = copy.deepcopy(stack.stages[0])
    x = torch.randn(2, DIM, 5)
    for training in (False, True):
        expected = stage.train(training)(x)
        result = stack.train(training)(x)
        assert_same(result._replace(codes=result.codes[:, 0]), expected)
    assert_same(state(stack.stages[0]), state(stage))


def test_stages_may_differ() -> None:
    stages = [VectorQuantize(DIM, 4, codebook_dim=2), VectorQuantize(DIM, 32, distance="cosine")]
    quantizer = ResidualVQ(stages)
    quantizer(torch.randn(4, DIM, 50))
    result = quantizer.eval()(torch.randn(2, DIM, 50))
    assert (result.codes.amax((0, 2)) < torch.tensor([4, 32])).all()
    assert torch.equal(quantizer.decode(result.codes), result.quantized)


# Shapes.


@each_estimator
@pytest.mark.parametrize("positions", [(), (1,), (7,), (3, 4), (1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_any_number_of_positions_keeps_its_axes(estimator: str, positions: tuple[int, ...], batch: int) -> None:
    quantizer = trained(0.5, estimator=estimator)
    x = torch.randn(batch, DIM, *positions)
    for training in (True, False):
        result = quantizer.train(training)(x, torch.ones(batch, *positions))
        assert result.quantized.shape == x.shape
        assert result.codes.shape == quantizer.encode(x).shape == (batch, STAGES, *positions)
        assert result.losses["commitment"].shape == ()
        assert quantizer.decode(result.codes).shape == x.shape


def test_an_image_is_quantized_as_its_pixels_in_a_row() -> None:
    quantizer = trained()
    x = torch.randn(2, DIM, 3, 4)
    image, row = quantizer(x), quantizer(x.flatten(2))
    assert_same(Quantization(image.quantized.flatten(2), image.codes.flatten(2), image.losses), row)
    assert torch.equal(quantizer.decode(image.codes).flatten(2), quantizer.decode(row.codes))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, DIM, 5), (2, DIM, 0)])
def test_nothing_is_quantized_to_nothing(shape: tuple[int, ...], training: bool) -> None:
    quantizer = trained(0.5).train(training)
    before = state(quantizer)
    result = quantizer(torch.zeros(shape))
    assert result.quantized.shape == shape
    assert result.codes.shape == (shape[0], STAGES, shape[2])
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


@pytest.mark.parametrize("count", range(1, STAGES + 1))
def test_codes_of_the_first_stages_are_a_code(count: int) -> None:
    quantizer = trained()
    shorter = ResidualVQ(list(quantizer.stages)[:count]).eval()
    x = torch.randn(3, DIM, 50)
    result = shorter(x)
    assert torch.equal(quantizer.encode(x, count), result.codes)
    assert torch.equal(quantizer.encode(x)[:, :count], result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)


def test_eval_equals_eval_and_changes_nothing() -> None:
    quantizer = trained(1.0, estimator="gumbel_softmax")
    before = state(quantizer)
    x = torch.randn(3, DIM, 50)
    assert_same(quantizer(x), quantizer(x))
    assert_same(state(quantizer), before)


def test_encode_never_changes_state() -> None:
    quantizer = trained(1.0, estimator="gumbel_softmax").train()
    before = state(quantizer)
    x = torch.randn(3, DIM, 50)
    codes = quantizer.encode(x)
    assert torch.equal(codes, quantizer.encode(x))
    assert torch.equal(codes, quantizer.eval().encode(x))
    quantizer.decode(codes[:, :2])
    assert_same(state(quantizer), before)


# Gradients.


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_straight_through_passes_ones_however_many_stages_there_are(dropout: float) -> None:
    x = torch.randn(2, DIM, 5, requires_grad=True)
    trained(dropout).train()(x).quantized.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@each_estimator
@each_codebook_dim
@pytest.mark.parametrize("stage", range(STAGES))
def test_the_commitment_loss_of_every_stage_arrives(estimator: str, codebook_dim: int | None, stage: int) -> None:
    quantizer = trained(estimator=estimator, codebook_dim=codebook_dim).train()
    x = torch.randn(2, DIM, 5, requires_grad=True)
    losses = []
    quantize_rows = VectorQuantize.quantize_rows

    def record(self, *arguments):
        result = quantize_rows(self, *arguments)
        losses.append(result.losses["commitment"])
        return result

    for each in quantizer.stages:
        each.quantize_rows = record.__get__(each)
    quantizer(x)
    losses[stage].backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any(dim=1).all()


def test_the_gradient_of_the_commitment_loss_is_that_of_its_formula() -> None:
    # Mean over stages and elements of (x - sum of the stages up to this one)^2, of which only x has a gradient.
    quantizer = trained(update=Gradient())
    x = torch.randn(2, DIM, 5, requires_grad=True)
    result = quantizer(x)
    result.losses["commitment"].backward()
    sums = [quantizer.decode(result.codes[:, :count]) for count in range(1, STAGES + 1)]
    expected = sum(2 * (x - each) for each in sums).detach() / (x.numel() * STAGES)
    torch.testing.assert_close(x.grad, expected)


@each_codebook_dim
def test_every_stage_learns_by_gradient(codebook_dim: int | None) -> None:
    quantizer = trained(1.0, update=Gradient(), codebook_dim=codebook_dim).train()
    result = quantizer(torch.randn(64, DIM, 5))
    (result.quantized.square().sum() + sum(result.losses.values())).backward()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


# Quantizer dropout.


def kept_stages(quantizer: ResidualVQ, result: Quantization) -> list[int]:
    """By how many stages each example of a training batch was quantized."""
    sums = [quantizer.decode(result.codes[:, :count]) for count in range(1, quantizer.num_quantizers + 1)]
    depths = []
    for example in range(len(result.codes)):
        (depth,) = [
            count for count, each in enumerate(sums, 1) if torch.equal(each[example], result.quantized[example])
        ]
        depths.append(depth)
    return depths


def drawn_depths(dropout: float, batch: int = 2000) -> Tensor:
    quantizer = trained(dropout, update=UPDATES["frozen"]()).train()
    return torch.tensor(kept_stages(quantizer, quantizer(torch.randn(batch, DIM, 2))))


def test_without_dropout_every_example_keeps_all_stages() -> None:
    assert (drawn_depths(0.0, batch=50) == STAGES).all()


@pytest.mark.parametrize("dropout", [0.4, 1.0])
def test_the_number_of_stages_is_drawn_for_every_example(dropout: float) -> None:
    shares = torch.bincount(drawn_depths(dropout), minlength=STAGES + 1)[1:] / 2000
    expected = torch.full((STAGES,), dropout / STAGES)
    expected[-1] += 1 - dropout
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)


def test_dropout_changes_nothing_but_what_is_returned() -> None:
    quantizer = make(0.0)
    with_dropout = make(1.0)
    for _ in range(4):
        x = torch.randn(4, DIM, 20)
        expected, result = quantizer(x), with_dropout(x)
        assert torch.equal(result.codes, expected.codes)
        assert_same(result.losses, expected.losses)
        assert not torch.equal(result.quantized, expected.quantized)
    assert_same(state(with_dropout), state(quantizer))


def test_eval_drops_nothing() -> None:
    quantizer = trained(1.0)
    result = quantizer(torch.randn(20, DIM, 5))
    assert kept_stages(quantizer, result) == [STAGES] * 20


# Learning.


@pytest.mark.parametrize("initializer", ["samples", "kmeans"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("count", [3, 10, SIZE, 2 * SIZE, 10 * SIZE])
def test_every_stage_starts_with_something_to_learn(initializer: str, distance: str, count: int) -> None:
    # With as many rows as codes, or drawing the same rows in every stage, the second codebook would be zeros.
    quantizer = make(initializer=initializer, distance=distance)
    x = torch.randn(1, DIM, count)
    quantizer(x)
    for stage in quantizer.stages:
        assert (stage.codebook.vectors.norm(dim=1) > 1e-4).float().mean() > 0.5
    errors = [(x - quantizer.decode(quantizer.encode(x, stages))).norm() for stages in range(1, STAGES + 1)]
    assert errors[0] > 0.05 * x.norm()


@each_initializer
def test_all_stages_are_initialized_by_the_first_batch_that_has_rows(initializer: str) -> None:
    quantizer = make(initializer=initializer)
    quantizer(torch.randn(2, DIM, 5), torch.zeros(2, 5))
    assert not any(stage.codebook.initialized for stage in quantizer.stages)
    quantizer(torch.randn(2, DIM, 5))
    assert all(stage.codebook.initialized for stage in quantizer.stages)


@each_update
@each_initializer
@pytest.mark.parametrize("value", [0.0, 1e30, float("nan")])
def test_padding_touches_nothing(update: str, initializer: str, value: float) -> None:
    padded, alone = (make(update=UPDATES[update](decay=0.5), initializer=initializer) for _ in range(2))
    mask = torch.arange(10) < torch.tensor([[10], [2], [0]])
    for _ in range(4):
        x = torch.randn(3, DIM, 10)
        result = padded(torch.where(mask[:, None], x, value), mask)
        expected = alone(x.movedim(1, -1)[mask].T[None])
        assert torch.equal(result.codes.movedim(1, -1)[mask].T, expected.codes[0])
        assert_same(result.losses, expected.losses)
    assert_same(state(padded), state(alone))


@each_update
def test_a_mask_of_ones_is_no_mask(update: str) -> None:
    quantizer = make(update=UPDATES[update](decay=0.5))
    masked = copy.deepcopy(quantizer)
    for _ in range(3):
        x = torch.randn(3, DIM, 10)
        expected = quantizer(x)
        assert_same(masked(x, torch.ones(3, 10)), expected)
    assert_same(state(masked), state(quantizer))


@each_update
@each_initializer
@each_codebook_dim
def test_a_restored_stack_takes_the_same_next_step(update: str, initializer: str, codebook_dim: int | None) -> None:
    options = {"initializer": initializer, "codebook_dim": codebook_dim}
    quantizer, restored = (make(0.5, update=UPDATES[update](decay=0.5), **options) for _ in range(2))
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
def test_autocast_to_bfloat16_changes_nothing(codebook_dim: int | None) -> None:
    quantizer = trained(codebook_dim=codebook_dim)
    under_autocast = copy.deepcopy(quantizer)
    x = torch.randn(3, DIM, 100)
    for training in (False, True):
        expected = quantizer.train(training)(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(under_autocast.train(training)(x), expected)
    assert_same(state(under_autocast), state(quantizer))
    codes = quantizer.encode(x)
    decoded = quantizer.decode(codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(x), codes)
        assert torch.equal(quantizer.decode(codes), decoded)


# Two ranks.


def learn(
    rank, quantizer: ResidualVQ, batches: list[Tensor], masks: list[Tensor]
) -> tuple[dict[str, Tensor], list[int]]:
    """Learn from this rank's example of each batch; the state afterwards, and the collectives of each step."""
    rank.join()
    torch.manual_seed(rank.index)  # of what is drawn at random, such as depths, ranks need not agree
    collectives = []
    for batch, mask in zip(batches, masks, strict=True):
        before = rank.collectives
        part = slice(rank.index, rank.index + 1)
        quantizer(batch[part], mask[part])
        collectives.append(rank.collectives - before)
    return state(quantizer), collectives


@each_update
@each_initializer
@each_codebook_dim
def test_two_ranks_learn_the_same_stack_as_one(
    two_ranks, update: str, initializer: str, codebook_dim: int | None
) -> None:
    options = {} if update == "frozen" else {"dead_ratio": 0.5}
    settings = UPDATES[update](decay=0.8, **options)
    quantizer = make(0.5, update=settings, initializer=initializer, codebook_dim=codebook_dim)
    batches = [torch.randn(2, DIM, 41) + number for number in range(5)]
    # At first, four rows for each code: with fewer, k-means may make equal code vectors, and rounding chooses of those.
    lengths = [(41, 30), (1, 41), (41, 0), (0, 0), (7, 30)]
    masks = [torch.arange(41) < torch.tensor(each)[:, None] for each in lengths]
    (first, _), (second, _) = two_ranks(learn, quantizer, batches, masks)
    assert_same(first, second)
    for batch, mask in zip(batches, masks, strict=True):
        quantizer(batch, mask)
    for name, tensor in quantizer.state_dict().items():
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-6)


def test_a_step_is_one_collective_a_stage_and_one_more_where_codes_are_replaced(two_ranks) -> None:
    quantizer = trained(0.5, update=EMA(decay=0.8, dead_ratio=0)).train()
    batches, masks = [torch.randn(2, DIM, 41)] * 3, [torch.ones(2, 41)] * 3
    (_, first), (_, second) = two_ranks(learn, quantizer, batches, masks)
    assert first == second == [STAGES] * 3
    quantizer = trained(0.5, update=EMA(decay=0.8, dead_ratio=0.5)).train()
    for stage in quantizer.stages[:2]:
        stage.codebook.usage[3] = 0
        stage.codebook.vectors[3] = 1000
    (_, first), (_, second) = two_ranks(learn, quantizer, batches[:1], masks[:1])
    assert first == second == [STAGES + 2]


# Refusals.


def test_an_uninitialized_stack_is_an_error_and_no_row_of_zeros() -> None:
    quantizer = make()
    message = "^the codebook must be initialized before it encodes or decodes; train on a batch or load weights$"
    with pytest.raises(RuntimeError, match=message):
        quantizer.encode(torch.randn(2, DIM, 5))
    with pytest.raises(RuntimeError, match=message):
        quantizer.decode(torch.zeros(2, STAGES, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=message):
        quantizer.eval()(torch.randn(2, DIM, 5))


def test_stages_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^stages must be one or more of equal dim; got dims \[\]$"):
        ResidualVQ([])
    with pytest.raises(ValueError, match=r"^stages must be one or more of equal dim; got dims \[6, 7\]$"):
        ResidualVQ([VectorQuantize(6, 4), VectorQuantize(7, 4)])
    with pytest.raises(ValueError, match=r"^stages must be channel-first; got one with channel_last=True$"):
        ResidualVQ([VectorQuantize(6, 4), VectorQuantize(6, 4, channel_last=True)])


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan")])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=rf"^dropout must be in \[0, 1\]; got {dropout}$"):
        make(dropout)


@pytest.mark.parametrize("count", [-1, 0, STAGES + 1])
def test_a_number_of_stages_that_there_are_not_is_refused(count: int) -> None:
    message = rf"^num_quantizers must be from 1 to {STAGES}; got {count}$"
    with pytest.raises(ValueError, match=message):
        trained().encode(torch.randn(2, DIM, 5), count)
    if count >= 0:
        with pytest.raises(ValueError, match=message):
            trained().decode(torch.zeros(2, count, 5, dtype=torch.int64))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^x must have size 6 along axis 1; got shape \(2, 5, 6\)$"):
        trained()(torch.zeros(2, 5, DIM))
    with pytest.raises(ValueError, match=r"^mask must have shape \(2, 5\); got \(2, 4\)$"):
        trained()(torch.zeros(2, DIM, 5), torch.ones(2, 4))


def test_a_code_that_is_not_in_its_codebook_is_refused() -> None:
    codes = torch.zeros(2, STAGES, 5, dtype=torch.int64)
    codes[1, 2, 3] = SIZE
    with pytest.raises(ValueError, match=r"^codes must be in \[0, 16\); got 0 to 16$"):
        trained().decode(codes)
