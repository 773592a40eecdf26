import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Frozen, Gradient, GroupedResidualVQ, InPlace, ResidualVQ, VectorQuantize

DIMS, SIZE, STAGES = (4, 2), 8, 3
DIM = sum(DIMS)

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def make_groups(dims: tuple[int, ...] = DIMS, dropout: float = 0.0, **options) -> list[ResidualVQ]:
    stacks = [[VectorQuantize(dim, SIZE, **options) for _ in range(STAGES)] for dim in dims]
    return [ResidualVQ(stages, dropout=dropout) for stages in stacks]


def make(dropout: float = 0.0, *, dims: tuple[int, ...] = DIMS, manual: bool = False, **options) -> GroupedResidualVQ:
    return GroupedResidualVQ(make_groups(dims, dropout, **options), manual=manual)


def trained(dropout: float = 0.0, **options) -> GroupedResidualVQ:
    """A quantizer that has seen a batch, in eval mode."""
    quantizer = make(dropout, **options)
    quantizer(torch.randn(4, 50, DIM) if quantizer.channel_last else torch.randn(4, DIM, 50))
    if quantizer.learner.manual:
        quantizer.apply_update()
    return quantizer.eval()


def state(quantizer: torch.nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(quantizer.state_dict())


def cut(x: Tensor) -> list[Tensor]:
    """The parts of [batch, dim, *positions]."""
    return [x[:, : DIMS[0]], x[:, DIMS[0] :]]


# What it computes.


EACH_UPDATE = {
    "ema": EMA(decay=0.8, dead_ratio=0.5),
    "gradient": Gradient(decay=0.8, dead_ratio=0.5),
    "in_place": InPlace(decay=0.8, dead_ratio=0.5),
    "frozen": Frozen(decay=0.8),
}


@pytest.mark.parametrize("update", EACH_UPDATE)
@pytest.mark.parametrize("dropout", [0.0, 0.7])
def test_each_group_is_its_stack_alone_on_its_part(update: str, dropout: float) -> None:
    quantizer = make(dropout, update=EACH_UPDATE[update])
    alone = copy.deepcopy(quantizer.groups)
    lengths = torch.tensor([20, 7, 0])
    for number in range(5):
        training = number < 4
        x = torch.randn(3, DIM, 20) + number
        targets = torch.randint(SIZE, (3, 2, STAGES, 20))
        result = quantizer.train(training)(x, lengths=lengths, target_codes=targets)
        parts = zip(alone.train(training), cut(x), targets.unbind(1), strict=True)
        expected = [each(part, lengths=lengths, target_codes=codes) for each, part, codes in parts]
        assert torch.equal(result.quantized, torch.cat([each.quantized for each in expected], dim=1))
        assert torch.equal(result.codes, torch.stack([each.codes for each in expected], dim=1))
        assert set(result.losses) == set(expected[0].losses)
        for name, loss in result.losses.items():
            assert_same(loss, (expected[0].losses[name] + expected[1].losses[name]) / 2)
        assert_same(state(quantizer.groups), state(alone))


def test_codes_and_vectors_of_each_group_are_those_of_its_stack() -> None:
    quantizer = trained()
    x = torch.randn(2, DIM, 20)
    for options in ({}, {"num_quantizers": 2}, {"beam_size": 3}):
        codes = quantizer.encode(x, **options)
        pairs = list(zip(quantizer.groups, cut(x), strict=True))
        assert torch.equal(codes, torch.stack([group.encode(part, **options) for group, part in pairs], dim=1))
        decoded = [group.decode(part) for group, part in zip(quantizer.groups, codes.unbind(1), strict=True)]
        assert torch.equal(quantizer.decode(codes), torch.cat(decoded, dim=1))


def test_groups_draw_rows_of_their_own() -> None:
    quantizer = GroupedResidualVQ(make_groups((3, 3), initializer="samples"))
    quantizer(torch.randn(2, 3, 400).repeat(1, 2, 1))
    first, second = (group.codebooks[0].vectors for group in quantizer.groups)
    assert not torch.equal(first, second)


def test_the_state_is_that_of_the_groups() -> None:
    quantizer = make()
    names = [f"groups.{number}.{name}" for number, group in enumerate(quantizer.groups) for name in group.state_dict()]
    assert list(quantizer.state_dict()) == names
    assert (quantizer.dim, quantizer.num_quantizers, quantizer.channel_last) == (DIM, STAGES, False)


def test_gradients_reach_every_part() -> None:
    quantizer = trained(update=Gradient()).train()
    x = torch.randn(2, DIM, 20, requires_grad=True)
    result = quantizer(x)
    (gradient,) = torch.autograd.grad(result.quantized.sum(), x, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(x))
    sum(result.losses.values()).backward()
    assert (x.grad != 0).all()
    assert all(parameter.grad.any() for parameter in quantizer.parameters())


# Shapes.


@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("positions", [(), (7,), (3, 4)])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_groups_stand_before_stages(channel_last: bool, heads: int, positions: tuple[int, ...], batch: int) -> None:
    quantizer = trained(heads=heads, channel_last=channel_last)
    x = torch.randn(batch, *positions, DIM) if channel_last else torch.randn(batch, DIM, *positions)
    shape = (batch, len(DIMS), STAGES, *([heads] if heads > 1 else []), *positions)
    for training in (True, False):
        result = quantizer.train(training)(x, torch.ones(batch, *positions))
        assert result.quantized.shape == x.shape
        assert result.codes.shape == quantizer.encode(x).shape == shape
    assert torch.equal(quantizer.encode(x), result.codes)
    assert torch.equal(quantizer.decode(result.codes), result.quantized)
    assert quantizer.decode(result.codes[:, :, :2]).shape == x.shape


def test_padding_touches_nothing_and_becomes_zeros() -> None:
    outcomes = []
    mask = torch.arange(20) < torch.tensor([[20], [7], [0]])
    batches = [torch.randn(3, DIM, 20) for _ in range(3)]
    for value in (0.0, float("nan")):
        quantizer = make(0.5)
        results = [quantizer(torch.where(mask[:, None], x, value), mask) for x in batches]
        assert (results[-1].quantized.movedim(1, -1)[~mask] == 0).all()
        assert (results[-1].codes.movedim(-1, 1)[~mask] == 0).all()
        outcomes.append((results, state(quantizer)))
    assert_same(*outcomes)


# Learning.


@pytest.mark.parametrize("update", EACH_UPDATE)
def test_micro_batches_that_are_applied_together_are_one_batch(update: str) -> None:
    at_once = trained(update=EACH_UPDATE[update]).train()
    manual = make(update=EACH_UPDATE[update], manual=True)
    manual.load_state_dict(state(at_once))
    for _ in range(3):
        before = state(manual)
        parts = [torch.randn(2, DIM, 10), torch.randn(3, DIM, 10)]
        results = [manual(part) for part in parts]
        assert_same(state(manual), before)
        assert torch.equal(torch.cat([result.codes for result in results]), at_once(torch.cat(parts)).codes)
        manual.apply_update()
        assert_same(state(manual), state(at_once))
    with pytest.raises(RuntimeError, match=r"^a batch must be quantized in training mode, with manual=True, before"):
        manual.apply_update()


def test_every_micro_batch_draws_other_depths() -> None:
    quantizer = trained(1.0, manual=True).train()
    x = torch.randn(50, DIM, 2)
    assert not torch.equal(quantizer(x).quantized, quantizer(x).quantized)


def test_the_temperature_is_that_of_all_groups() -> None:
    quantizer = make(estimator="gumbel_softmax")
    quantizer.set_temperature(0.25)
    temperatures = [value.item() for name, value in quantizer.state_dict().items() if name.endswith("temperature")]
    assert temperatures == [0.25] * len(DIMS) * STAGES


def test_a_restored_quantizer_takes_the_same_next_steps() -> None:
    quantizer, restored = (make(0.5) for _ in range(2))
    quantizer(torch.randn(3, DIM, 20))
    restored.load_state_dict(state(quantizer))
    for _ in range(3):
        x = torch.randn(3, DIM, 20)
        assert_same(restored(x), quantizer(x))
        assert_same(state(restored), state(quantizer))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(half: torch.dtype) -> None:
    quantizer = trained(codebook_dim=3)
    under_autocast = copy.deepcopy(quantizer)
    for training in (False, True, True):
        x = torch.randn(3, DIM, 50)
        expected = quantizer.train(training)(x)
        with torch.autocast("cpu", half):
            assert_same(under_autocast.train(training)(x), expected)
    assert_same(state(under_autocast), state(quantizer))


# Compiled.


def test_compiled_equals_eager(compiled) -> None:
    quantizer = GroupedResidualVQ([ResidualVQ([VectorQuantize(dim, SIZE)]) for dim in DIMS])
    x = torch.randn(2, DIM, 20)
    quantizer(x)
    quantizer.eval()
    with torch.no_grad():
        expected = quantizer(x)
        assert_same(compiled(quantizer)(x), expected)
        assert torch.equal(compiled(quantizer.encode)(x), expected.codes)
        assert torch.equal(compiled(quantizer.decode)(expected.codes), expected.quantized)


# Two ranks.


def learn_on_ranks(
    rank, quantizer: GroupedResidualVQ, batches: list[Tensor], lengths: list[Tensor]
) -> tuple[dict[str, Tensor], list[int]]:
    """Learn from this rank's example of each batch; the state afterwards, and the collectives of each step."""
    rank.join()
    torch.manual_seed(rank.index)
    collectives = []
    part = slice(rank.index, rank.index + 1)
    for batch, length in zip(batches, lengths, strict=True):
        before = rank.collectives
        quantizer(batch[part], lengths=length[part])
        collectives.append(rank.collectives - before)
    return state(quantizer), collectives


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_two_ranks_learn_the_same_as_one(two_ranks, dropout: float) -> None:
    quantizer = make(dropout, update=EMA(decay=0.8, dead_ratio=0.5))
    batches = [torch.randn(2, DIM, 41) + number for number in range(6)]
    lengths = [torch.tensor(each) for each in [(0, 0), (41, 30), (1, 41), (41, 0), (0, 0), (7, 30)]]
    (first, collectives), (second, others) = two_ranks(learn_on_ranks, quantizer, batches, lengths)
    assert_same(first, second)
    assert collectives == others
    for batch, length in zip(batches, lengths, strict=True):
        quantizer(batch, lengths=length)
    torch.testing.assert_close(first, state(quantizer), atol=1e-5, rtol=1e-5)


def test_a_step_is_one_collective_for_all_groups_and_one_more_where_codes_are_replaced(two_ranks) -> None:
    batches, lengths = [torch.randn(2, DIM, 41)] * 3, [torch.tensor([41, 41])] * 3
    quantizer = trained(update=EMA(decay=0.8, dead_ratio=0)).train()
    (_, first), (_, second) = two_ranks(learn_on_ranks, quantizer, batches, lengths)
    assert first == second == [1] * 3
    quantizer = trained(update=EMA(decay=0.8, dead_ratio=0.5)).train()
    for group in quantizer.groups:
        group.codebooks[1].usage[3] = 0
        group.codebooks[1].vectors[3] = 1000
    (_, first), (_, second) = two_ranks(learn_on_ranks, quantizer, batches[:1], lengths[:1])
    assert first == second == [2]


# Refusals.


def test_groups_that_do_not_fit_are_refused() -> None:
    def stack(stages: int = 2, manual: bool = False, **options) -> ResidualVQ:
        return ResidualVQ([VectorQuantize(4, SIZE, **options) for _ in range(stages)], manual=manual)

    for groups, message in [
        ([], r"^groups must be one or more of equal num_quantizers; got \[\]$"),
        ([stack(), stack(3)], r"^groups must be one or more of equal num_quantizers; got \[2, 3\]$"),
        ([stack(), stack(heads=2)], r"^groups must be one or more of equal heads; got \[1, 2\]$"),
        (
            [stack(), stack(channel_last=True)],
            r"^groups must be one or more of equal channel_last; got \[False, True\]$",
        ),
        ([stack(), stack(manual=True)], r"^manual must be given to the GroupedResidualVQ, not to its groups$"),
    ]:
        with pytest.raises(ValueError, match=message):
            GroupedResidualVQ(groups)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 7, DIM), (DIM,)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    quantizer = trained()
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"^x must have size 6 along axis 1; got shape \("):
            call(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"^x must have size 6 along axis -1; got shape \(2, 6, 5\)$"):
        trained(channel_last=True)(torch.zeros(2, DIM, 5))


@pytest.mark.parametrize("groups", [1, 3])
def test_another_number_of_groups_is_refused(groups: int) -> None:
    codes = torch.zeros(2, groups, STAGES, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"^codes must have 2 groups along axis 1; got {groups}$"):
        trained().decode(codes)
    with pytest.raises(ValueError, match=rf"^target_codes must have 2 groups along axis 1; got {groups}$"):
        trained()(torch.zeros(2, DIM, 5), target_codes=codes)


def test_what_a_stack_refuses_is_refused() -> None:
    quantizer = trained()
    x = torch.zeros(2, DIM, 5)
    with pytest.raises(ValueError, match=r"^num_quantizers must be from 1 to 3; got 4$"):
        quantizer.decode(torch.zeros(2, 2, STAGES + 1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^codes must be in \[0, 8\); got 8 to 8$"):
        quantizer.decode(torch.full((2, 2, STAGES, 5), SIZE))
    with pytest.raises(ValueError, match=r"^num_quantizers must be from 1 to 3; got 0$"):
        quantizer.encode(x, 0)
    with pytest.raises(ValueError, match=r"^mask must have shape \(2, 5\); got \(2, 4\)$"):
        quantizer(x, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"^target_codes must have shape \(2, 3, 5\); got \(2, 3, 4\)$"):
        quantizer(x, target_codes=torch.zeros(2, 2, STAGES, 4, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"^the codebook must be initialized before it encodes or decodes; train"):
        make().encode(x)
