"""What holds of any quantizer and any input."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec.quantize import (
    Affine,
    Diversity,
    Frozen,
    Gradient,
    GroupedResidualVQ,
    Orthogonal,
    ResidualVQ,
    VectorQuantize,
)
from codec.quantize.distance import DISTANCES
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.loss import COMMITMENTS
from codec.quantize.update import UPDATES

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)

forty = settings(deadline=None, derandomize=True, max_examples=40)


@dataclass
class Case:
    """A quantizer and what it is fed with.

    Attributes:
        options: Of each stage.
        sizes: Number of codes of each stage; with one size twice in a row, the stage is one that they share.
        groups: How many residual stacks share the vectors.
        outer: Size of the vectors of each group, projected to those of the stages if it differs.
        dropout: Of stages.
        shape: Batch and positions.
        scale: Of the input; at 0, it is silence.
        real: Share of the positions that are not padding.
        seed: Of all else.
    """

    options: dict[str, Any]
    sizes: list[int]
    groups: int
    outer: int
    dropout: float
    shape: tuple[int, ...]
    scale: float
    real: float
    seed: int

    def quantizer(self) -> ResidualVQ | GroupedResidualVQ:
        torch.manual_seed(self.seed)
        stacks = []
        for _ in range(self.groups):
            stages = [VectorQuantize(codebook_size=size, **self.options) for size in self.sizes]
            for index in range(1, len(stages)):
                if self.sizes[index] == self.sizes[index - 1]:
                    stages[index] = stages[index - 1]
            stacks.append(ResidualVQ(stages, dim=self.outer, dropout=self.dropout))
        return stacks[0] if self.groups == 1 else GroupedResidualVQ(stacks)

    def batch(self, number: int = 0) -> tuple[Tensor, Tensor]:
        """Input [batch, dim, *positions] and mask [batch, *positions]."""
        torch.manual_seed(self.seed + number)
        batch, *positions = self.shape
        x = self.scale * torch.randn(batch, self.groups * self.outer, *positions)
        return x, torch.rand(self.shape) < self.real

    def trained(self) -> ResidualVQ | GroupedResidualVQ:
        """The quantizer after two batches, in eval mode. The first has rows, whatever the case."""
        quantizer = self.quantizer()
        quantizer(torch.randn(2, self.groups * self.outer, 5))
        quantizer(self.batch()[0])
        return quantizer.eval()

    @property
    def stage_axis(self) -> int:
        """Of codes."""
        return 1 if self.groups == 1 else 2


@st.composite
def cases(draw, positions: int | None = None) -> Case:
    heads = draw(st.integers(1, 3))
    dim = heads * draw(st.integers(1, 3))
    update = UPDATES[draw(st.sampled_from(sorted(UPDATES)))](decay=0.5)
    affine = not isinstance(update, Frozen) and draw(st.booleans())
    regularizers = [Diversity()] if draw(st.booleans()) else []
    if isinstance(update, Gradient):
        update = Gradient(decay=0.5, synchronous=draw(st.sampled_from([0.0, 0.5])))
        regularizers += [Orthogonal()] if draw(st.booleans()) else []
    options = {
        "dim": dim,
        "heads": heads,
        "codebook_dim": draw(st.sampled_from([None, 1, 4])),
        "separate_codebooks": heads > 1 and draw(st.booleans()),
        "distance": draw(st.sampled_from(sorted(DISTANCES))),
        "estimator": draw(st.sampled_from(sorted(ESTIMATORS))),
        "initializer": draw(st.sampled_from(sorted(INITIALIZERS))),
        "commitment": draw(st.sampled_from(sorted(COMMITMENTS))),
        "affine": Affine() if affine else None,
        "regularizers": regularizers,
        "update": update,
    }
    axes = draw(st.integers(0, 2)) if positions is None else positions
    return Case(
        options,
        sizes=draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)),
        groups=draw(st.integers(1, 2)),
        outer=draw(st.sampled_from([dim, dim + 1])),
        dropout=draw(st.sampled_from([0.0, 0.5])),
        shape=(draw(st.integers(0, 4)), *(draw(st.integers(0, 7)) for _ in range(axes))),
        scale=draw(st.sampled_from([1.0, 0.0, 1e-3, 1e3])),
        real=draw(st.sampled_from([0.5, 0.0, 1.0])),
        seed=draw(st.integers(0, 1000)),
    )


def run(quantizer, seed: int, *arguments, **options):
    """The result of a call with these random numbers, and the state after it."""
    torch.manual_seed(seed)
    return quantizer(*arguments, **options), copy.deepcopy(quantizer.state_dict())


@forty
@given(cases())
def test_training_stays_finite_and_codes_in_range(case: Case) -> None:
    quantizer = case.quantizer()
    optimizer = torch.optim.Adam([*quantizer.parameters(), torch.zeros(1, requires_grad=True)], lr=0.01)
    for number in range(3):
        x, mask = case.batch(number)
        quantized, codes, losses = quantizer(x.requires_grad_(), mask)
        optimizer.zero_grad()
        (quantized.square().sum() + sum(losses.values())).backward()
        optimizer.step()
        for tensor in (quantized, x.grad, *losses.values(), *quantizer.state_dict().values()):
            assert tensor.isfinite().all()
        for stage, size in zip(codes.unbind(case.stage_axis), case.sizes, strict=True):
            assert ((stage >= 0) & (stage < size)).all()
        padding = ~mask.unsqueeze(1).expand_as(x)
        assert not quantized[padding].any()
        assert not x.grad[padding].any()


@forty
@given(cases())
def test_a_mask_of_ones_is_no_mask(case: Case) -> None:
    masked, quantizer = case.quantizer(), case.quantizer()
    for number in range(2):
        x, mask = case.batch(number)
        assert_same(run(masked, number, x, torch.ones_like(mask)), run(quantizer, number, x))


@forty
@given(cases(positions=1), st.integers(1, 3), st.sampled_from([0.0, 1e30, float("nan")]))
def test_padded_frames_change_nothing(case: Case, count: int, garbage: float) -> None:
    padded, quantizer = case.quantizer(), case.quantizer()
    frames = case.shape[1]
    for number in range(3):
        x, mask = case.batch(number)
        longer = torch.cat([x, torch.full((*x.shape[:2], count), garbage)], dim=2)
        longer_mask = torch.cat([mask, torch.zeros(len(mask), count, dtype=torch.bool)], dim=1)
        result, state = run(padded, number, longer, longer_mask)
        shorter = result._replace(quantized=result.quantized[..., :frames], codes=result.codes[..., :frames])
        assert_same((shorter, state), run(quantizer, number, x, mask))


@forty
@given(cases(positions=1))
def test_lengths_are_a_mask(case: Case) -> None:
    by_mask, by_lengths = case.quantizer(), case.quantizer()
    for number in range(2):
        x, mask = case.batch(number)
        lengths = mask.sum(1)
        mask = torch.stack([torch.arange(x.shape[2]) < length for length in lengths]) if len(x) else mask
        assert_same(run(by_lengths, number, x, lengths=lengths), run(by_mask, number, x, mask))


@forty
@given(cases())
def test_decoding_what_was_encoded_is_forward_in_eval_mode(case: Case) -> None:
    quantizer = case.trained()
    x, _ = case.batch(1)
    before = copy.deepcopy(quantizer.state_dict())
    result = quantizer(x)
    assert_same(quantizer.encode(x), result.codes)
    assert_same(quantizer.decode(result.codes), result.quantized)
    assert_same(quantizer.state_dict(), before)


@forty
@given(cases())
def test_a_permuted_batch_has_permuted_codes(case: Case) -> None:
    quantizer = case.trained()
    x, _ = case.batch(1)
    order = torch.randperm(len(x))
    assert_same(quantizer.encode(x[order]), quantizer.encode(x)[order])


@forty
@given(cases())
def test_codes_of_the_first_stages_are_those_of_a_shorter_stack(case: Case) -> None:
    quantizer = case.trained()
    x, _ = case.batch(1)
    codes = quantizer.encode(x)
    for count in range(1, len(case.sizes) + 1):
        shorter = copy.deepcopy(quantizer)
        for stack in shorter.modules():
            if isinstance(stack, ResidualVQ):
                stack.order = stack.order[:count]
        result = shorter(x)
        first = codes.narrow(case.stage_axis, 0, count)
        assert_same(result.codes, first)
        assert_same(quantizer.encode(x, count), first)
        assert_same(quantizer.decode(first), result.quantized)
