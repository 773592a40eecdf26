import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.quantize.usage import count_codes, dead_share, perplexity


def test_codes_are_counted_stage_by_stage() -> None:
    codes = torch.tensor([[[0, 1, 1], [3, 3, 3]], [[1, 0, 2], [0, 3, 0]]])
    counts = count_codes(codes, 4)
    assert counts.tolist() == [[2, 3, 1, 0], [2, 0, 0, 4]]
    assert counts.dtype == torch.int64


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.integers(1, 6), st.integers(0, 100))
def test_counts_are_those_of_a_loop(batch: int, stages: int, frames: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(size, (batch, stages, frames), generator=generator)
    mask = torch.rand(batch, frames, generator=generator) < 0.5
    expected = [[0] * size for _ in range(stages)]
    for example, example_mask in zip(codes, mask, strict=True):
        for stage, stage_codes in enumerate(example):
            for code, real in zip(stage_codes, example_mask, strict=True):
                expected[stage][code] += int(real)
    assert count_codes(codes, size, mask).tolist() == expected


def test_a_masked_position_is_not_counted() -> None:
    codes = torch.tensor([[[0, 1, 1], [3, 3, 3]]])
    assert count_codes(codes, 4, torch.tensor([[True, True, False]])).tolist() == [[1, 1, 0, 0], [0, 0, 0, 2]]
    assert torch.equal(count_codes(codes, 4, torch.ones(1, 3)), count_codes(codes, 4))


def test_codes_of_images_are_counted() -> None:
    codes = torch.randint(8, (2, 3, 4, 5))
    mask = torch.rand(2, 4, 5) < 0.5
    assert torch.equal(count_codes(codes, 8), count_codes(codes.flatten(2), 8))
    assert torch.equal(count_codes(codes, 8, mask), count_codes(codes.flatten(2), 8, mask.flatten(1)))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 5, 5, 5], 4.0),
        ([7, 0, 0, 0], 1.0),
        ([3, 3, 0, 0], 2.0),
        ([2, 1, 1, 0], 2**1.5),  # an entropy of 1.5 bits
        ([0, 0, 0, 0], 1.0),
    ],
)
def test_perplexity_by_hand(counts: list[int], expected: float) -> None:
    assert perplexity(torch.tensor(counts)).item() == pytest.approx(expected)


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    counts = torch.randint(100, (3, 20))
    for row, value in zip(counts.tolist(), perplexity(counts), strict=True):
        shares = [count / sum(row) for count in row if count]
        assert value.item() == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)))


def test_perplexity_of_many_counts_is_exact() -> None:
    # Counts that float32 would round: 2^24 + 1.
    assert perplexity(torch.full((1024,), 2**24 + 1)).item() == pytest.approx(1024, rel=1e-12)


@pytest.mark.parametrize(
    ("counts", "ratio", "expected"),
    [
        ([4, 0, 0, 4], 0.0, 0.5),
        ([4, 1, 1, 2], 0.0, 0.0),
        ([4, 1, 1, 2], 0.5, 0.0),  # uniform is 2: 1 is exactly half of it
        ([4, 1, 1, 2], 0.6, 0.5),
        ([0, 0, 0, 0], 0.0, 1.0),
    ],
)
def test_dead_share_by_hand(counts: list[int], ratio: float, expected: float) -> None:
    assert dead_share(torch.tensor(counts), ratio).item() == expected


def test_shares_and_perplexities_keep_the_leading_axes() -> None:
    counts = torch.randint(5, (2, 3, 8))
    assert perplexity(counts).shape == dead_share(counts).shape == (2, 3)
