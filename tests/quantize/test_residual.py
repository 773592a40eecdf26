import copy
import itertools
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.quantize import EMA, Affine, Frozen, Gradient, InPlace, KMeans, Quantization, ResidualVQ, VectorQuantize
from codec.quantize.beam import BeamSearch
from codec.quantize.codebook import Observation, learn
from codec.quantize.distance import DISTANCES, nearest
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import UPDATES

DIM, SIZE, STAGES = 6, 16, 4

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
each_update = pytest.mark.parametrize("update", UPDATES)
each_initializer = pytest.mark.parametrize("initializer", INITIALIZERS)
each_codebook_dim = pytest.mark.parametrize("codebook_dim", [None, 3])
each_distance = pytest.mark.parametrize("distance", DISTANCES)

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


# Of stacks; all others are options of their stages.
STACK_OPTIONS = {"dim", "dropout_multiple", "manual"}


def make(dropout: float = 0.0, stages: int = STAGES, shared: bool = False, **options) -> ResidualVQ:
    own = {name: options.pop(name) for name in STACK_OPTIONS & set(options)}
    if shared:
        return ResidualVQ([VectorQuantize(DIM, SIZE, **options)] * stages, dropout=dropout, **own)
    return ResidualVQ([VectorQuantize(DIM, SIZE, **options) for _ in range(stages)], dropout=dropout, **own)


def trained(dropout: float = 0.0, stages: int = STAGES, **options) -> ResidualVQ:
    """A stack that has seen two batches, in eval mode."""
    quantizer = make(dropout, stages, **options)
    for _ in range(2):
        quantizer(torch.randn(4, 50, quantizer.dim) if quantizer.channel_last else torch.randn(4, quantizer.dim, 50))
        if quantizer.learner.manual:
            quantizer.apply_update()
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
    assert quantizer.codebook_sizes == [4, 32]
    quantizer(torch.randn(4, DIM, 50))
    result = quantizer.eval()(torch.randn(2, DIM, 50))
    assert (result.codes.amax((0, 2)) < torch.tensor([4, 32])).all()
    assert result.codes[:, 1].max() >= 4
    assert torch.equal(quantizer.decode(result.codes), result.quantized)


# A stage that stands at several places.


def test_a_shared_stage_is_in_the_state_once() -> None:
    shared, other = VectorQuantize(DIM, SIZE), VectorQuantize(DIM, 4)
    quantizer = ResidualVQ([shared, other, shared, shared])
    names = ("vectors", "usage", "initialized", "steps")
    assert list(quantizer.state_dict()) == [f"stages.{stage}.codebook.{name}" for stage in (0, 1) for name in names]
    assert quantizer.codebooks == [shared.codebook, other.codebook]
    assert quantizer.codebook_sizes == [SIZE, 4, SIZE, SIZE]
    assert quantizer.num_quantizers == 4


@each_distance
@pytest.mark.parametrize(
    "options",
    [
        {"update": EMA(decay=0.8, dead_ratio=0)},
        {"update": InPlace(partial(torch.optim.SGD, lr=0.5, momentum=0.5), decay=0.8, dead_ratio=0)},
        {"update": EMA(decay=0.8, dead_ratio=0), "affine": Affine()},
    ],
)
def test_a_shared_stage_learns_from_the_rows_of_all_as_one_batch(distance: str, options: dict[str, object]) -> None:
    quantizer = make(shared=True, distance=distance, **options)
    alone = copy.deepcopy(quantizer.stages[0])
    for number in range(5):
        x = torch.randn(2, DIM, 31) + number
        result = quantizer(x)
        residual, lanes = x.movedim(1, -1).reshape(-1, DIM), []
        for stage in range(STAGES):
            (lane,) = alone._on_sphere(alone._lanes(residual))
            alone.codebook.initialize(lane)
            codes = nearest(lane, alone.codebook.snapshot(), alone.distance)
            assert torch.equal(result.codes[:, stage].reshape(-1), codes)
            lanes.append((lane, codes))
            residual = residual - alone.codebook.snapshot()[codes]
        learn([Observation(alone.codebook, *(torch.cat(parts) for parts in zip(*lanes, strict=True)))])
        torch.testing.assert_close(state(quantizer.stages[0]), state(alone))
        alone.load_state_dict(state(quantizer.stages[0]))
    quantizer.eval()
    result = quantizer(x)
    assert torch.equal(quantizer.encode(x), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)


# Projected around.


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_a_stack_of_another_dim_is_projected_around(dropout: float) -> None:
    quantizer = trained(dropout, dim=10)
    inner = ResidualVQ(list(quantizer.stages), dropout=dropout)
    lengths = torch.tensor([5, 3])
    for training in (False, True):
        before = state(quantizer)
        x = torch.randn(2, 10, 5)
        result = quantizer.train(training)(x, lengths=lengths)
        quantizer.load_state_dict(before)
        expected = inner.train(training)(quantizer.project_in(x.movedim(1, -1)).movedim(-1, 1), lengths=lengths)
        assert torch.equal(result.codes, expected.codes)
        torch.testing.assert_close(result.losses, expected.losses)
        projected = quantizer.project_out(expected.quantized.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(result.quantized[0], projected[0])
        torch.testing.assert_close(result.quantized[1, :, :3], projected[1, :, :3])
        assert (result.quantized[1, :, 3:] == 0).all()
    assert quantizer.dim == 10
    quantizer.eval()
    assert torch.equal(quantizer.decode(quantizer.encode(x)), quantizer(x).quantized)


def test_both_projections_learn() -> None:
    quantizer = trained(dim=10).train()
    x = torch.randn(2, 10, 5, requires_grad=True)
    result = quantizer(x)
    for value, reached in (
        (result.quantized.square().sum(), {"project_in.weight", "project_in.bias", "project_out.weight"}),
        (result.losses["commitment"], {"project_in.weight", "project_in.bias"}),
    ):
        quantizer.zero_grad()
        value.backward(retain_graph=True)
        gradients = {name for name, each in quantizer.named_parameters() if each.grad is not None and each.grad.any()}
        assert gradients - {"project_out.bias"} == reached
    assert (x.grad != 0).any(dim=1).all()


# Shapes.


@each_codebook_dim
@pytest.mark.parametrize("positions", [(7,), (3, 4)])
@pytest.mark.parametrize("dim", [None, 10])
def test_the_channel_may_come_last(codebook_dim: int | None, positions: tuple[int, ...], dim: int | None) -> None:
    first = trained(0.5, codebook_dim=codebook_dim, dim=dim)
    last = make(0.5, codebook_dim=codebook_dim, dim=dim, channel_last=True)
    last.load_state_dict(first.state_dict())
    x, mask = torch.randn(2, first.dim, *positions), torch.rand(2, *positions) < 0.7
    for training in (False, True):
        expected = first.train(training)(x, mask)
        result = last.train(training)(x.movedim(1, -1), mask)
        assert_same(result._replace(quantized=result.quantized.movedim(-1, 1)), expected)
        assert_same(state(last), state(first))
    assert torch.equal(last.encode(x.movedim(1, -1)), first.encode(x))
    assert torch.equal(last.decode(expected.codes).movedim(-1, 1), first.decode(expected.codes))


@pytest.mark.parametrize("options", [{}, {"separate_codebooks": True}, {"codebook_dim": 2}])
@pytest.mark.parametrize("positions", [(), (7,), (3, 4)])
def test_heads_stand_between_stages_and_positions(options: dict[str, object], positions: tuple[int, ...]) -> None:
    quantizer = trained(heads=2, **options)
    x = torch.randn(3, DIM, *positions)
    result = quantizer(x)
    left = x
    for index, stage in enumerate(quantizer.stages):
        assert torch.equal(result.codes[:, index], stage.encode(left))
        left = left - stage.decode(result.codes[:, index])
    assert result.codes.shape == (3, STAGES, 2, *positions)
    assert torch.equal(quantizer.encode(x), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)
    assert torch.equal(quantizer.encode(x, 2), result.codes[:, :2])
    assert quantizer.train()(x, torch.ones(3, *positions)).codes.shape == result.codes.shape


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
@each_distance
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


@each_distance
def test_a_beam_of_one_is_the_greedy_choice(distance: str) -> None:
    quantizer = trained(distance=distance)
    x = torch.randn(3, DIM, 50)
    codes = quantizer.encode(x)
    assert torch.equal(quantizer.encode(x, beam_size=1), codes)
    searched = BeamSearch(list(quantizer.stages))(x.movedim(1, -1).reshape(-1, DIM), 1)
    assert torch.equal(searched.view(3, 50, STAGES).movedim(-1, 1), codes)


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"codebook_dim": 3}, {"dim": 10}, {"channel_last": True}])
def test_a_wider_beam_leaves_less(options: dict[str, object]) -> None:
    quantizer = trained(**options)
    x = torch.randn(3, 50, quantizer.dim) if quantizer.channel_last else torch.randn(3, quantizer.dim, 50)
    inner = quantizer.project_in(x if quantizer.channel_last else x.movedim(1, -1))
    quantizer.project_out = torch.nn.Identity()  # what is left is measured inside
    left = []
    for beam_size in (1, 4, 20):
        codes = quantizer.encode(x, 3, beam_size=beam_size)
        assert codes.shape == (3, 3, 50)
        decoded = quantizer.decode(codes)
        left.append((inner - (decoded if quantizer.channel_last else decoded.movedim(1, -1))).square().sum().item())
    assert left[0] > left[1] > left[2]


def test_a_beam_over_nothing_finds_nothing() -> None:
    assert trained().encode(torch.zeros(2, DIM, 0), beam_size=3).shape == (2, STAGES, 0)


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
    quantizer.encode(x, beam_size=3)
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


@pytest.mark.parametrize("dropout", [0.0, 1.0])
@pytest.mark.parametrize("estimator", ["straight_through", "stochastic"])
def test_a_synchronous_update_gives_every_kept_stage_its_part_of_the_gradient(dropout: float, estimator: str) -> None:
    quantizer = trained(dropout, estimator=estimator, update=Gradient(dead_ratio=0, synchronous=0.5)).train()
    x = torch.randn(5, DIM, 7, requires_grad=True)
    result = quantizer(x)
    upstream = torch.randn_like(x)
    result.quantized.backward(upstream)
    torch.testing.assert_close(x.grad, upstream)
    depths = torch.tensor(kept_stages(quantizer, result))
    for index, stage in enumerate(quantizer.stages):
        kept = depths > index
        rows = 0.5 * upstream[kept].movedim(1, -1).reshape(-1, DIM)
        expected = torch.zeros(SIZE, DIM).index_add(0, result.codes[kept, index].flatten(), rows)
        torch.testing.assert_close(stage.codebook.vectors.grad, expected)


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


def drawn_depths(dropout: float, batch: int = 2000, **options) -> Tensor:
    quantizer = trained(dropout, update=Frozen(), **options).train()
    return torch.tensor(kept_stages(quantizer, quantizer(torch.randn(batch, DIM, 2))))


def test_without_dropout_every_example_keeps_all_stages() -> None:
    assert (drawn_depths(0.0, batch=50) == STAGES).all()


@pytest.mark.parametrize("dropout", [0.4, 1.0])
def test_the_number_of_stages_is_drawn_for_every_example(dropout: float) -> None:
    shares = torch.bincount(drawn_depths(dropout), minlength=STAGES + 1)[1:] / 2000
    expected = torch.full((STAGES,), dropout / STAGES)
    expected[-1] += 1 - dropout
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("multiple", "depths"), [(1, {1, 2, 3, 4, 5}), (2, {2, 4, 5}), (3, {3, 5}), (4, {4, 5}), (5, {5})]
)
def test_depths_are_multiples_and_all_stages(multiple: int, depths: set[int]) -> None:
    drawn = drawn_depths(1.0, stages=5, dropout_multiple=multiple)
    assert set(drawn.tolist()) == depths
    shares = torch.bincount(drawn)[sorted(depths)] / 2000
    torch.testing.assert_close(shares, torch.full((len(depths),), 1 / len(depths)), atol=0.04, rtol=0)


@pytest.mark.parametrize("manual", [False, True])
def test_every_batch_draws_anew(manual: bool) -> None:
    quantizer = trained(1.0, update=Frozen(), manual=manual).train()
    x = torch.randn(50, DIM, 2)
    drawn = [kept_stages(quantizer, quantizer(x)) for _ in range(4)]
    assert all(first != second for first, second in itertools.pairwise(drawn))
    if manual:
        quantizer.apply_update()
        assert kept_stages(quantizer, quantizer(x)) not in drawn


@pytest.mark.parametrize("manual", [False, True])
def test_a_restored_stack_drops_the_same(manual: bool) -> None:
    quantizer, restored = (make(0.7, manual=manual) for _ in range(2))
    for _ in range(2):
        quantizer(torch.randn(10, DIM, 20))
    if manual:
        quantizer.apply_update()
    restored.load_state_dict(state(quantizer))
    for _ in range(3):
        x = torch.randn(10, DIM, 20)
        torch.rand(7)  # nothing depends on the random numbers of anyone else
        assert_same(restored(x), quantizer(x))


@pytest.mark.parametrize("shared", [False, True])
def test_a_batch_in_parts_is_quantized_and_learned_from_as_the_whole(shared: bool) -> None:
    whole = make(0.7, manual=True, shared=shared, update=EMA(decay=0.8, dead_ratio=0.5))
    whole(torch.randn(20, DIM, 20))
    whole.apply_update()
    parts = make(0.7, manual=True, shared=shared, update=EMA(decay=0.8, dead_ratio=0.5))
    parts.load_state_dict(state(whole))
    for _ in range(3):
        x = torch.randn(24, DIM, 20)
        expected = whole(x).quantized
        assert_same(torch.cat([parts(part).quantized for part in x.split(8)]), expected)
        whole.apply_update()
        parts.apply_update()
        for name, tensor in state(whole).items():
            torch.testing.assert_close(parts.state_dict()[name], tensor, msg=name)


def test_an_update_that_is_discarded_leaves_no_trace() -> None:
    quantizer, other = (make(0.7, manual=True) for _ in range(2))
    x = torch.randn(10, DIM, 20)
    for each in (quantizer, other):
        each(x)
        each.apply_update()
    quantizer(torch.randn(10, DIM, 20))
    quantizer.discard_update()
    assert_same(state(quantizer), state(other))
    assert_same(quantizer(x), other(x))
    quantizer.apply_update()
    other.apply_update()
    assert_same(state(quantizer), state(other))


@pytest.mark.parametrize("empty", [(0, DIM, 20), (3, DIM, 0)])
def test_dropout_of_nothing_drops_nothing(empty: tuple[int, ...]) -> None:
    assert trained(1.0).train()(torch.zeros(empty)).quantized.shape == empty


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
        assert torch.equal(result.quantized.movedim(1, -1)[mask].T, expected.quantized[0])
        assert (result.codes.movedim(1, -1)[~mask] == 0).all()
        assert (result.quantized.movedim(1, -1)[~mask] == 0).all()
        assert_same(result.losses, expected.losses)
    assert_same(state(padded), state(alone))


def test_lengths_are_the_mask_they_stand_for() -> None:
    by_lengths, by_mask = (make(0.5) for _ in range(2))
    lengths = torch.tensor([10, 3, 0])
    mask = torch.tensor([[frame < length for frame in range(10)] for length in lengths])
    for training in (True, True, False):
        x = torch.randn(3, DIM, 10)
        assert_same(by_lengths.train(training)(x, lengths=lengths), by_mask.train(training)(x, mask))
    assert_same(state(by_lengths), state(by_mask))


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


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"codebook_dim": 3, "dim": 10},
        {"affine": Affine(), "distance": "unit_cosine"},
        {"update": InPlace(), "shared": True},
    ],
)
def test_autocast_changes_nothing(half: torch.dtype, options: dict[str, object]) -> None:
    quantizer = trained(**options)
    under_autocast = copy.deepcopy(quantizer)
    for training in (False, True, True):
        x = torch.randn(3, quantizer.dim, 100)
        expected = quantizer.train(training)(x)
        with torch.autocast("cpu", half):
            assert_same(under_autocast.train(training)(x), expected)
    assert_same(state(under_autocast), state(quantizer))
    codes, searched = quantizer.encode(x), quantizer.encode(x, beam_size=3)
    decoded = quantizer.decode(codes)
    with torch.autocast("cpu", half):
        assert torch.equal(quantizer.encode(x), codes)
        assert torch.equal(quantizer.encode(x, beam_size=3), searched)
        assert torch.equal(quantizer.decode(codes), decoded)


# Learning when told to.


@pytest.mark.parametrize("update", [EMA(decay=0.5), InPlace(decay=0.5), Gradient(decay=0.5, dead_ratio=0.9)])
@pytest.mark.parametrize("shared", [False, True])
def test_micro_batches_that_are_applied_together_are_one_batch(update, shared: bool) -> None:
    at_once = trained(update=update, shared=shared).train()
    manual = make(update=update, shared=shared, manual=True)
    manual.load_state_dict(state(at_once))
    for _ in range(3):
        before = state(manual)
        parts = [torch.randn(2, DIM, 10), torch.randn(3, DIM, 10)]
        results = [manual(part) for part in parts]
        assert_same(state(manual), before)
        expected = at_once(torch.cat(parts))
        assert torch.equal(torch.cat([result.codes for result in results]), expected.codes)
        assert torch.equal(torch.cat([result.quantized for result in results]), expected.quantized)
        manual.apply_update()
        # A shared stage may add its rows up in another order.
        tolerance = 1e-6 if shared else 0
        torch.testing.assert_close(state(manual), state(at_once), atol=tolerance, rtol=tolerance)
        manual.load_state_dict(state(at_once))


def test_a_manual_stack_is_not_applied_without_a_batch() -> None:
    quantizer = trained(manual=True).train()
    with pytest.raises(RuntimeError, match=r"^a batch must be quantized in training mode, with manual=True, before"):
        quantizer.apply_update()


def test_the_temperature_is_that_of_all_stages() -> None:
    quantizer = make(estimator="gumbel_softmax", temperature=0.5)
    quantizer.set_temperature(0.25)
    assert [stage.temperature.item() for stage in quantizer.stages] == [0.25] * STAGES


# Target codes.


@each_distance
@pytest.mark.parametrize("training", [False, True])
def test_target_codes_give_the_loss_of_what_those_before_leave(distance: str, training: bool) -> None:
    quantizer = trained(distance=distance, update=Gradient()).train(training)
    tables = [stage.codebook.snapshot().detach() for stage in quantizer.stages]
    x, mask = torch.randn(3, DIM, 20, requires_grad=True), torch.rand(3, 20) < 0.8
    targets = torch.randint(SIZE, (3, STAGES, 20))
    targets[0, 2:] = -1  # nothing is known after the second stage
    targets[1, :, 5] = -1
    loss = quantizer(x, mask, target_codes=targets).losses["cross_entropy"]
    residual, expected = x.movedim(1, -1), []
    for stage, vectors, codes in zip(quantizer.stages, tables, targets.unbind(1), strict=True):
        known = mask & (codes >= 0)
        (lane,) = stage._lanes(residual[known])
        expected.append(F.cross_entropy(-stage.distance.measure(lane, vectors), codes[known]))
        residual = residual - vectors[codes.clamp_min(0)]
    torch.testing.assert_close(loss, sum(expected) / STAGES)
    gradients = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in (loss, sum(expected) / STAGES)]
    torch.testing.assert_close(*gradients)
    loss.backward()
    assert all(stage.codebook.vectors.grad is None for stage in quantizer.stages)


def test_target_codes_that_are_those_of_the_stack_give_the_loss_of_its_stages() -> None:
    quantizer = trained(heads=2, commitment="cross_entropy")
    x = torch.randn(3, DIM, 20)
    losses = quantizer(x, target_codes=quantizer.encode(x)).losses
    torch.testing.assert_close(losses["cross_entropy"], losses["commitment"])


def test_training_on_target_codes_makes_them_the_codes() -> None:
    quantizer = trained(stages=2)
    x = torch.randn(2, DIM, 20, requires_grad=True)
    targets = torch.randint(SIZE, (2, 2, 20))
    optimizer = torch.optim.Adam([x], lr=0.1)
    shares = []
    for _ in range(100):
        result = quantizer(x, target_codes=targets)
        shares.append((result.codes[:, 0] == targets[:, 0]).float().mean().item())
        optimizer.zero_grad()
        result.losses["cross_entropy"].backward()
        optimizer.step()
    assert shares[0] < 0.3
    assert shares[-1] > 0.9


# Compiled.


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.5, "shared": True, "dim": 10, "distance": "unit_cosine", "affine": Affine()},
        {"heads": 2, "separate_codebooks": True, "codebook_dim": 2, "channel_last": True, "update": Gradient()},
    ],
)
def test_compiled_equals_eager(compiled, options: dict[str, object]) -> None:
    quantizer = trained(stages=2, **options)
    x = torch.randn(2, 20, quantizer.dim) if quantizer.channel_last else torch.randn(2, quantizer.dim, 20)
    with torch.no_grad():
        expected = quantizer(x)
        assert_same(compiled(quantizer)(x), expected)
        assert torch.equal(compiled(quantizer.encode)(x, 1), expected.codes[:, :1])
        assert torch.equal(compiled(quantizer.decode)(expected.codes), expected.quantized)


def test_a_compiled_beam_finds_what_an_eager_one_does(compiled) -> None:
    quantizer = trained(stages=2)
    x = torch.randn(2, DIM, 20)
    assert torch.equal(compiled(quantizer.encode)(x, beam_size=3), quantizer.encode(x, beam_size=3))


@pytest.mark.parametrize("call", ["forward", "encode", "decode"])
def test_compiled_refuses_an_uninitialized_stack(compiled, call: str) -> None:
    quantizer = make(stages=1).eval()
    argument = torch.zeros(2, 1, 5, dtype=torch.int64) if call == "decode" else torch.randn(2, DIM, 5)
    with pytest.raises(RuntimeError, match=r"^the codebook must be initialized before it encodes or decodes; train"):
        compiled(getattr(quantizer, call))(argument)


# Two ranks.


def learn_on_ranks(
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
        if quantizer.learner.manual:
            quantizer.apply_update()
        collectives.append(rank.collectives - before)
    return state(quantizer), collectives


@each_update
@each_initializer
def test_two_ranks_learn_the_same_stack_as_one(two_ranks, update: str, initializer: str) -> None:
    settings = {
        "ema": EMA(decay=0.8, dead_ratio=0.5),
        "gradient": Gradient(decay=0.8, dead_ratio=0.5),
        # Adam would make whole steps of the gradient after k-means, which is nothing but rounding.
        "in_place": InPlace(partial(torch.optim.SGD, lr=0.5), decay=0.8, dead_ratio=0.5),
        "frozen": Frozen(decay=0.8),
    }[update]
    quantizer = make(0.5, update=settings, initializer=initializer)
    batches = [torch.randn(2, DIM, 41) + number for number in range(5)]
    # At first, four rows for each code: with fewer, k-means may make equal code vectors, and rounding chooses of those.
    lengths = [(41, 30), (1, 41), (41, 0), (0, 0), (7, 30)]
    masks = [torch.arange(41) < torch.tensor(each)[:, None] for each in lengths]
    (first, _), (second, _) = two_ranks(learn_on_ranks, quantizer, batches, masks)
    assert_same(first, second)
    for batch, mask in zip(batches, masks, strict=True):
        quantizer(batch, mask)
    for name, tensor in quantizer.state_dict().items():
        torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"shared": True},
        {"codebook_dim": 3},
        {"heads": 2, "separate_codebooks": True},
        {"dim": 10, "distance": "unit_cosine"},
        {"affine": Affine(), "dropout_multiple": 2},
        {"manual": True},
    ],
)
def test_two_ranks_learn_any_stack_as_one_does(two_ranks, options: dict[str, object]) -> None:
    quantizer = make(0.5, update=EMA(decay=0.8, dead_ratio=0.5), initializer="samples", **options)
    batches = [torch.randn(2, quantizer.dim, 41) + number for number in range(5)]
    masks = [
        torch.arange(41) < torch.tensor(lengths)[:, None] for lengths in [(41, 30), (1, 41), (41, 0), (0, 0), (7, 30)]
    ]
    (first, _), (second, _) = two_ranks(learn_on_ranks, quantizer, batches, masks)
    assert_same(first, second)
    for batch, mask in zip(batches, masks, strict=True):
        quantizer(batch, mask)
        if quantizer.learner.manual:
            quantizer.apply_update()
    torch.testing.assert_close(first, state(quantizer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_is_one_collective_and_one_for_dropout_and_one_where_codes_are_replaced(
    two_ranks, shared: bool, dropout: float
) -> None:
    quantizer = trained(dropout, shared=shared, update=EMA(decay=0.8, dead_ratio=0)).train()
    batches, masks = [torch.randn(2, DIM, 41)] * 3, [torch.ones(2, 41)] * 3
    (_, first), (_, second) = two_ranks(learn_on_ranks, quantizer, batches, masks)
    usual = 1 + (dropout > 0)
    assert first == second == [usual] * 3
    (_, first), (_, second) = two_ranks(learn_on_ranks, quantizer.eval(), batches, masks)
    assert first == second == [0] * 3
    quantizer = trained(dropout, shared=shared, update=EMA(decay=0.8, dead_ratio=0.5)).train()
    for stage in quantizer.stages[:2]:
        stage.codebook.usage[3] = 0
        stage.codebook.vectors[3] = 1000
    (_, first), (_, second) = two_ranks(learn_on_ranks, quantizer, batches[:1], masks[:1])
    assert first == second == [usual + 1]


def drop_on_ranks(rank, quantizer: ResidualVQ, batches: list[Tensor], examples_on_first: list[int]) -> list[list[int]]:
    """How many stages each of this rank's examples keeps."""
    rank.join()
    torch.manual_seed(rank.index)
    parts = [batch.split([count, len(batch) - count]) for batch, count in zip(batches, examples_on_first, strict=True)]
    return [kept_stages(quantizer, quantizer(part[rank.index])) for part in parts]


def test_two_ranks_drop_what_one_would(two_ranks) -> None:
    quantizer = trained(0.7, update=Frozen()).train()
    batches = [torch.randn(9, DIM, 2) for _ in range(4)]
    first, second = two_ranks(drop_on_ranks, quantizer, batches, [3, 9, 0, 4])
    expected = [kept_stages(quantizer, quantizer(batch)) for batch in batches]
    assert [mine + others for mine, others in zip(first, second, strict=True)] == expected
    assert len({tuple(depths) for depths in expected}) == 4


def learn_for_long(rank, quantizer: ResidualVQ) -> tuple[dict[str, Tensor], list[int]]:
    rank.join()
    torch.manual_seed(rank.index)
    collectives = []
    for number in range(200):
        before = rank.collectives
        examples, frames = (int(torch.randint(limit, ())) for limit in (4, 30))
        x = torch.randn(examples, DIM, frames, requires_grad=True)
        x = x * (1 + number % 5) + number / 50  # codes die as it moves away
        mask = torch.rand(examples, frames) < (number % 3) / 2
        if number < 3:
            mask[:] = False
        result = quantizer(x, mask)
        (result.quantized.sum() + result.losses["commitment"]).backward()
        collectives.append(rank.collectives - before)
    return state(quantizer), collectives


def test_two_ranks_agree_for_long(two_ranks) -> None:
    quantizer = make(0.5, update=EMA(decay=0.9, dead_ratio=0.5), initializer=KMeans(3))
    (first, collectives), (second, others) = two_ranks(learn_for_long, quantizer)
    assert_same(first, second)
    assert all(tensor.isfinite().all() for tensor in first.values())
    assert 100 < first["stages.3.codebook.steps"] < 197
    # Of depths, of what is learned, and of whether that is anything to start with; then once for k-means; and after
    # that one more where codes are replaced.
    assert collectives == others
    assert collectives[:3] == [2 + STAGES] * 3
    assert max(collectives[3:6]) > 2 + STAGES
    assert set(collectives[10:]) == {2, 3}


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
    with pytest.raises(ValueError, match=r"^stages must be one or more of equal dim; got \[\]$"):
        ResidualVQ([])
    with pytest.raises(ValueError, match=r"^stages must be one or more of equal dim; got \[6, 7\]$"):
        ResidualVQ([VectorQuantize(6, 4), VectorQuantize(7, 4)])
    with pytest.raises(ValueError, match=r"^stages must be one or more of equal heads; got \[1, 2\]$"):
        ResidualVQ([VectorQuantize(6, 4), VectorQuantize(6, 4, heads=2)])
    with pytest.raises(ValueError, match=r"^stages must be one or more of equal channel_last; got \[False, True\]$"):
        ResidualVQ([VectorQuantize(6, 4), VectorQuantize(6, 4, channel_last=True)])
    with pytest.raises(ValueError, match=r"^manual must be given to the stack, not to its stages$"):
        ResidualVQ([VectorQuantize(6, 4), VectorQuantize(6, 4, manual=True)])


@pytest.mark.parametrize("multiple", [0, -1, STAGES + 1])
def test_a_multiple_that_no_depth_has_is_refused(multiple: int) -> None:
    with pytest.raises(ValueError, match=rf"^dropout_multiple must be from 1 to {STAGES}; got {multiple}$"):
        make(0.5, dropout_multiple=multiple)


@pytest.mark.parametrize(("heads", "beam_size"), [(1, 0), (1, -1), (2, 2), (2, 0)])
def test_a_beam_that_cannot_be_is_refused(heads: int, beam_size: int) -> None:
    message = rf"^beam_size must be positive, and 1 with several heads; got {beam_size}$"
    with pytest.raises(ValueError, match=message):
        trained(heads=heads).encode(torch.zeros(2, DIM, 5), beam_size=beam_size)


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
    with pytest.raises(ValueError, match=r"^mask and lengths must not both be given; they say the same$"):
        trained()(torch.zeros(2, DIM, 5), torch.ones(2, 5), lengths=torch.tensor([5, 5]))


@pytest.mark.parametrize(("heads", "shape"), [(1, (2, STAGES, 4)), (1, (2, 3, 5)), (2, (2, STAGES, 5))])
def test_target_codes_of_another_shape_are_refused(heads: int, shape: tuple[int, ...]) -> None:
    expected = f"(2, {STAGES}, 5)" if heads == 1 else f"(2, {STAGES}, 2, 5)"
    with pytest.raises(ValueError, match=re.escape(f"target_codes must have shape {expected}; got {shape}")):
        trained(heads=heads)(torch.zeros(2, DIM, 5), target_codes=torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(("separate_codebooks", "heads"), [(False, 1), (False, 3), (True, 1), (True, 3)])
def test_codes_of_another_number_of_heads_are_refused(separate_codebooks: bool, heads: int) -> None:
    codes = torch.zeros(2, STAGES, heads, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^codes must have "):
        trained(heads=2, separate_codebooks=separate_codebooks).decode(codes)


def test_a_code_that_is_not_in_its_codebook_is_refused() -> None:
    codes = torch.zeros(2, STAGES, 5, dtype=torch.int64)
    codes[1, 2, 3] = SIZE
    with pytest.raises(ValueError, match=r"^codes must be in \[0, 16\); got 0 to 16$"):
        trained().decode(codes)
