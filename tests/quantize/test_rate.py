import itertools
import math

import pytest
import torch
from torch import Tensor

from codec.quantize import EMA, GroupedResidualVQ, ResidualVQ, VectorQuantize
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


def trained(*, stages: int = STAGES, size: int = SIZE, steps: int = 60) -> ResidualVQ:
    """A stack that has learned, in eval mode."""
    quantizer = ResidualVQ([VectorQuantize(DIM, size, update=EMA(decay=0.9, dead_ratio=0.01)) for _ in range(stages)])
    for _ in range(steps):
        quantizer(latents())
    return quantizer.eval()


def costs_of(quantizer: ResidualVQ, rate_weight: float) -> list[Tensor]:
    codebooks = [stage.codebook for stage in quantizer.stages]
    return [code_costs(codebook.code_vectors(), codebook.usage, rate_weight) for codebook in codebooks]


def lost_of(quantizer: ResidualVQ, codes: Tensor, x: Tensor) -> float:
    """Mean squared length of what each position of [batch, dim, frames] loses."""
    return (x - quantizer.decode(codes)).square().sum(1).mean().item()


def totals(quantizer: ResidualVQ, x: Tensor, codes: Tensor, rate_weight: float) -> Tensor:
    """Squared length of what each position of [batch, dim, frames] loses, and the costs of its codes."""
    pairs = zip(costs_of(quantizer, rate_weight), codes.unbind(1), strict=True)
    return (x - quantizer.decode(codes)).square().sum(1) + sum(costs[stage_codes] for costs, stage_codes in pairs)


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


def test_a_code_that_is_never_used_has_a_finite_cost() -> None:
    costs = code_costs(torch.randn(4, 2), torch.tensor([0.5, 0.5, 0, 0]), 1.0)
    assert costs.isfinite().all()
    assert costs[2] / costs[0] == pytest.approx(math.log2(SPREAD / 4) / math.log2(0.5), rel=0.01)


def test_one_code_that_is_all_there_is_costs_nothing() -> None:
    assert code_costs(torch.randn(1, DIM), torch.ones(1), 1.0).tolist() == [0.0]


def test_of_one_stage_the_code_is_the_one_of_least_distance_and_cost() -> None:
    quantizer = trained(stages=1)
    x = latents(2)
    distances = torch.cdist(x.movedim(1, -1).reshape(-1, DIM), quantizer.stages[0].codebook.code_vectors()).square()
    best = (distances + costs_of(quantizer, 0.5)[0]).argmin(1).view(2, 1, -1)
    for beam_size in (1, 4):
        assert torch.equal(quantizer.encode(x, beam_size=beam_size, rate_weight=0.5), best)
    # Some codes are not the nearest: else the costs were for nothing.
    assert not torch.equal(quantizer.encode(x), best)


def test_a_weight_of_0_takes_the_nearest_codes() -> None:
    quantizer = trained()
    x = latents(2)
    assert torch.equal(quantizer.encode(x, rate_weight=0.0), quantizer.encode(x))
    assert torch.equal(quantizer.encode(x, beam_size=3, rate_weight=0.0), quantizer.encode(x, beam_size=3))
    # A weight near 0 counts for nothing either, though the search is another one.
    assert (quantizer.encode(x, rate_weight=1e-9) != quantizer.encode(x)).float().mean() < 0.01


def test_a_wide_beam_finds_the_least_of_all_sequences() -> None:
    quantizer = trained(size=5)
    x = latents(2, 20)
    sequences = torch.tensor(list(itertools.product(range(5), repeat=STAGES)))
    every = torch.stack([totals(quantizer, x, codes[None, :, None].expand(2, -1, 20), 0.5) for codes in sequences])
    found = totals(quantizer, x, quantizer.encode(x, beam_size=25, rate_weight=0.5), 0.5)
    torch.testing.assert_close(found, every.amin(0), rtol=1e-4, atol=1e-4)
    assert (totals(quantizer, x, quantizer.encode(x, rate_weight=0.5), 0.5) > found + 1e-3).any()


def test_a_bit_saved_costs_less_than_one_saved_by_fewer_stages() -> None:
    quantizer = trained()
    x = latents(64)
    all_stages, fewer_stages = quantizer.encode(x), quantizer.encode(x, STAGES - 1)

    def cost_of_a_bit(codes: Tensor) -> float:
        saved = bits(all_stages) - bits(codes)
        assert saved > 0.5
        return (lost_of(quantizer, codes, x) - lost_of(quantizer, all_stages, x)) / saved

    assert cost_of_a_bit(quantizer.encode(x, rate_weight=0.5)) < 0.7 * cost_of_a_bit(fewer_stages)


def test_a_search_that_was_made_before_finds_the_same() -> None:
    quantizer = trained()
    x = latents(2)
    search = quantizer.search(2, rate_weight=0.5)
    expected = quantizer.encode(x, 2, beam_size=3, rate_weight=0.5)
    assert torch.equal(quantizer.encode(x, 2, beam_size=3, rate_weight=0.5, search=search), expected)


@pytest.mark.parametrize(("stages", "rate_weight"), [(3, 0.5), (2, 0.3)])
def test_a_search_of_other_stages_or_another_weight_is_refused(stages: int, rate_weight: float) -> None:
    quantizer = trained(steps=1)
    search = quantizer.search(stages, rate_weight=rate_weight)
    message = f"^search must be of 2 stages and the weight 0.5; got {stages} and {rate_weight}$"
    with pytest.raises(ValueError, match=message):
        quantizer.encode(latents(2), 2, rate_weight=0.5, search=search)


def test_a_search_of_heads_is_refused() -> None:
    quantizer = ResidualVQ([VectorQuantize(DIM, SIZE, heads=2)])
    quantizer(latents())
    with pytest.raises(ValueError, match=r"^heads must be 1 for a search over stages; got 2$"):
        quantizer.search()


@pytest.mark.parametrize(("options", "rate_weight"), [({}, 0.5), ({"codebook_dim": 4}, 0.0)])
def test_a_search_is_made_in_float32_under_autocast(options: dict[str, object], rate_weight: float) -> None:
    quantizer = ResidualVQ([VectorQuantize(DIM, SIZE, **options) for _ in range(STAGES)])
    quantizer(latents())
    x = latents(2)
    expected = quantizer.eval().encode(x, beam_size=3, rate_weight=rate_weight)
    with torch.autocast("cpu", torch.bfloat16):
        search = quantizer.search(rate_weight=rate_weight)
    assert torch.equal(quantizer.encode(x, beam_size=3, rate_weight=rate_weight, search=search), expected)
    rows = torch.randn(100, DIM)
    expected = search(rows, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(search(rows, 3), expected)


def test_each_group_weighs_bits() -> None:
    groups = [trained(), trained()]
    x = latents(2)
    codes = GroupedResidualVQ(groups).eval().encode(torch.cat([x, x], dim=1), rate_weight=0.5)
    assert torch.equal(codes, torch.stack([group.encode(x, rate_weight=0.5) for group in groups], dim=1))


def test_compiled_equals_eager(compiled) -> None:
    quantizer = trained(steps=2)
    x = latents(2, 30)
    for beam_size in (1, 3):
        expected = quantizer.encode(x, beam_size=beam_size, rate_weight=0.5)
        assert torch.equal(compiled(quantizer.encode)(x, beam_size=beam_size, rate_weight=0.5), expected)


@pytest.mark.parametrize("options", [{"distance": "cosine"}, {"distance": "unit_cosine"}, {"codebook_dim": 2}])
def test_costs_beside_another_measure_than_squared_distance_are_refused(options: dict[str, object]) -> None:
    quantizer = ResidualVQ([VectorQuantize(DIM, SIZE), VectorQuantize(DIM, SIZE, **options)])
    x = latents(2)
    quantizer(x)
    with pytest.raises(ValueError, match=r"^rate_weight must be 0 but for the distance euclidean .*; got 0.5$"):
        quantizer.encode(x, rate_weight=0.5)
    quantizer.encode(x, beam_size=2, rate_weight=0.0)
    quantizer.encode(x, 1, rate_weight=0.5)


def test_costs_of_heads_are_refused() -> None:
    quantizer = ResidualVQ([VectorQuantize(DIM, SIZE, heads=2)])
    quantizer(latents())
    with pytest.raises(ValueError, match=r"^rate_weight must be 0 with several heads; got 0.5$"):
        quantizer.encode(latents(2), rate_weight=0.5)


@pytest.mark.parametrize("rate_weight", [-0.1, math.inf, math.nan])
def test_a_weight_that_is_none_is_refused(rate_weight: float) -> None:
    quantizer = trained(steps=1)
    with pytest.raises(ValueError, match=r"^rate_weight must be 0 or more, and finite; got"):
        quantizer.encode(latents(2), rate_weight=rate_weight)
