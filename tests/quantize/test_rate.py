import itertools
import math

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, Gradient, ResidualVQ, VectorQuantize
from codec.quantize.rate import SPREAD, code_costs
from codec.quantize.usage import count_codes

DIM, SIZE, STAGES = 6, 32, 3


def latents(batch: int = 16, frames: int = 200) -> Tensor:
    """Some directions are wide and some are narrow, some frames are loud and some are quiet: as in a codec."""
    return (
        torch.randn(batch, DIM, frames)
        * torch.logspace(1, -1, DIM)[:, None]
        * torch.randn(batch, 1, frames).clamp(-2, 2).exp()
    )


def trained(rate_weight: float, *, steps: int = 60, stages: int = STAGES, size: int = SIZE, **options) -> ResidualVQ:
    """A stack that has learned, in eval mode."""
    quantizer = ResidualVQ(
        [
            VectorQuantize(DIM, size, rate_weight=rate_weight, update=EMA(decay=0.9, dead_ratio=0.01), **options)
            for _ in range(stages)
        ]
    )
    for _ in range(steps):
        quantizer(latents())
    return quantizer.eval()


def lost_of(quantizer: ResidualVQ, codes: Tensor, x: Tensor) -> float:
    """Mean squared length of what each position of [batch, dim, frames] loses."""
    return (x - quantizer.decode(codes)).square().sum(1).mean().item()


def totals(quantizer: ResidualVQ, x: Tensor, codes: Tensor) -> Tensor:
    """Squared length of what each position of [batch, dim, frames] loses, and the costs of its codes."""
    costs = torch.stack([stage.code_costs()[0] for stage in quantizer.stages])
    paid = sum(cost[stage_codes] for cost, stage_codes in zip(costs, codes.unbind(1), strict=True))
    return (x - quantizer.decode(codes)).square().sum(1) + paid


def bits(codes: Tensor) -> float:
    """Of a frame, by the entropy of each stage."""
    shares = count_codes(codes, SIZE).double()
    shares = shares / shares.sum(1, keepdim=True)
    return -torch.xlogy(shares, shares).sum().item() / math.log(2)


def test_a_code_costs_its_bits_at_what_a_bit_of_the_codebook_is_worth() -> None:
    vectors = torch.tensor([[1.0, 0], [-1, 0], [3, 0]])
    usage = torch.tensor([0.5, 0.25, 0.25])
    costs = code_costs(vectors, usage, 0.5)
    # The mean is 1, the variance (0 + 4 + 4) / 4; the entropy 1.5 bits.
    torch.testing.assert_close(costs, 0.5 * 2 / 1.5 * torch.tensor([1.0, 2.0, 2.0]), rtol=5e-3, atol=0)


def test_a_code_that_is_never_used_has_a_price() -> None:
    costs = code_costs(torch.randn(4, 2), torch.tensor([0.5, 0.5, 0, 0]), 1.0)
    assert costs.isfinite().all()
    assert costs[2] / costs[0] == pytest.approx(math.log2(SPREAD / 4) / math.log2(0.5), rel=0.01)


def test_one_code_that_is_all_there_is_costs_nothing() -> None:
    quantizer = VectorQuantize(DIM, 1, rate_weight=1.0)
    quantizer(latents())
    assert quantizer.code_costs()[0].tolist() == [0.0]


def test_the_code_is_the_one_of_least_distance_and_cost() -> None:
    quantizer = trained(0.5, stages=1)
    (stage,) = quantizer.stages
    x = latents(2)
    rows = x.movedim(1, -1).reshape(-1, DIM).double()
    vectors, (costs,) = stage.codebook.code_vectors().double(), stage.code_costs()
    best = (torch.cdist(rows, vectors).square() + costs).argmin(1).view(2, -1)
    assert torch.equal(stage.encode(x), best)
    assert torch.equal(stage(x).codes, best)
    assert torch.equal(quantizer.encode(x)[:, 0], best)
    # Some codes are not the nearest: else the cost was for nothing.
    assert (torch.cdist(rows, vectors).argmin(1).view(2, -1) != best).any()


def test_training_takes_the_nearest_code() -> None:
    quantizer = trained(0.5)
    x = latents(2)
    priced = quantizer.encode(x)
    for stage in quantizer.stages:
        stage.rate_weight = 0.0
    nearest = quantizer.encode(x)
    for stage in quantizer.stages:
        stage.rate_weight = 0.5
    assert not torch.equal(nearest, priced)
    assert torch.equal(quantizer.train()(x).codes, nearest)


def test_a_wide_beam_finds_the_least_of_all_sequences() -> None:
    quantizer = trained(0.5, size=5)
    x = latents(2, 20)
    sequences = torch.tensor(list(itertools.product(range(5), repeat=STAGES)))
    every = torch.stack([totals(quantizer, x, codes[None, :, None].expand(2, -1, 20)) for codes in sequences])
    found = totals(quantizer, x, quantizer.encode(x, beam_size=25))
    torch.testing.assert_close(found, every.amin(0), rtol=1e-4, atol=1e-4)
    assert (totals(quantizer, x, quantizer.encode(x)) > found + 1e-3).any()


def test_a_bit_saved_costs_less_than_one_saved_by_fewer_stages() -> None:
    quantizer = trained(0.0)
    x = latents(64)
    all_stages, fewer_stages = quantizer.encode(x), quantizer.encode(x, STAGES - 1)
    for stage in quantizer.stages:
        stage.rate_weight = 0.5
    priced = quantizer.encode(x)

    def price_of_a_bit(codes: Tensor) -> float:
        saved = bits(all_stages) - bits(codes)
        assert saved > 0.5
        return (lost_of(quantizer, codes, x) - lost_of(quantizer, all_stages, x)) / saved

    assert price_of_a_bit(priced) < 0.7 * price_of_a_bit(fewer_stages)


def test_compiled_equals_eager(compiled) -> None:
    quantizer = trained(0.5, steps=2)
    x = latents(2, 30)
    for beam_size in (1, 3):
        assert torch.equal(compiled(quantizer.encode)(x, beam_size=beam_size), quantizer.encode(x, beam_size=beam_size))
    assert torch.equal(compiled(quantizer)(x).codes, quantizer(x).codes)


def test_heads_with_codebooks_of_their_own_have_prices_of_their_own() -> None:
    quantizer = VectorQuantize(DIM, 8, heads=2, separate_codebooks=True, rate_weight=0.5)
    for _ in range(20):
        quantizer(latents())
    quantizer.eval()
    wide, narrow = quantizer.code_costs()
    assert wide.mean() > 2 * narrow.mean()
    x = latents(2)
    assert torch.equal(quantizer(x).codes, quantizer.encode(x))


@pytest.mark.parametrize(
    "options",
    [
        {"distance": "cosine"},
        {"distance": "unit_cosine"},
        {"codebook_dim": 2},
    ],
)
def test_a_price_that_would_not_be_of_squared_distances_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^rate_weight must be 0 but for distance='euclidean' and .*; got 0.5$"):
        VectorQuantize(DIM, SIZE, rate_weight=0.5, **options)
    VectorQuantize(DIM, SIZE, rate_weight=0.0, **options)


@pytest.mark.parametrize("rate_weight", [-0.1, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(rate_weight: float) -> None:
    with pytest.raises(ValueError, match=r"^rate_weight must be 0 or more, and finite; got"):
        VectorQuantize(DIM, SIZE, rate_weight=rate_weight)


def test_prices_carry_no_gradient() -> None:
    quantizer = VectorQuantize(DIM, SIZE, rate_weight=0.5, update=Gradient())
    result = quantizer(latents())
    result.losses["codebook"].backward()
    assert quantizer.codebook.vectors.grad is not None
    assert not quantizer.code_costs()[0].requires_grad
