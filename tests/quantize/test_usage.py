import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec.quantize import ResidualVQ, Usage, UsageReport, VectorQuantize
from codec.quantize.usage import count_codes, dead_share, perplexity

# To the last bit.
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


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


# Reports.


def assert_reports(report: UsageReport, **expected: list[list[float]]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(getattr(report, name), torch.tensor(value, dtype=torch.float64), msg=name)


def test_a_report_by_hand() -> None:
    usage = Usage([4, 4, 4])
    # Shares of 1/2, 1/4 and 1/4; one code alone; all four equally often.
    usage.add(torch.tensor([[[0, 0, 1, 2], [3, 3, 3, 3], [3, 1, 2, 0]]]))
    assert_reports(
        usage.report(),
        perplexity=[[2**1.5], [1.0], [4.0]],
        entropy=[[0.75], [0.0], [1.0]],
        dead_share=[[0.25], [0.75], [0.0]],
        bits_per_frame=[[1.5], [0.0], [2.0]],
    )


def test_each_stage_is_measured_by_the_size_of_its_codebook() -> None:
    usage = Usage([2, 8, 1])
    usage.add(torch.tensor([[[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]]))
    assert_reports(
        usage.report(),
        perplexity=[[2.0], [2.0], [1.0]],
        entropy=[[1.0], [1 / 3], [1.0]],  # a codebook of one code cannot say more than it does
        dead_share=[[0.0], [0.75], [0.0]],
        bits_per_frame=[[1.0], [1.0], [0.0]],
    )


def test_each_head_is_reported_by_itself() -> None:
    usage = Usage([4, 4], heads=2)
    codes = torch.tensor([[[[0, 1], [2, 2]], [[3, 3], [3, 0]]]])  # [batch, stages, heads, frames]
    usage.add(codes)
    report = usage.report()
    assert_reports(report, bits_per_frame=[[1.0, 0.0], [0.0, 1.0]], dead_share=[[0.5, 0.75], [0.75, 0.5]])
    for part in report:
        assert part.shape == (2, 2)
        assert part.dtype == torch.float64


def test_heads_are_counted_as_stages_are() -> None:
    codes = torch.randint(8, (2, 3, 2, 4, 5))  # of images
    mask = torch.rand(2, 4, 5) < 0.5
    heads, stages = Usage([8] * 3, heads=2), Usage([8] * 6)
    heads.add(codes, mask)
    stages.add(codes.flatten(1, 2), mask)
    for part, expected in zip(heads.report(), stages.report(), strict=True):
        assert torch.equal(part.flatten(), expected.flatten())


def test_padding_is_not_reported() -> None:
    codes, mask = torch.randint(8, (2, 3, 50)), torch.rand(2, 50) < 0.5
    padded, alone, moved = (Usage([8] * 3) for _ in range(3))
    padded.add(codes, mask)
    alone.add(codes.movedim(1, 2)[mask].T[None])
    moved.add(torch.where(mask.unsqueeze(1), codes, 7 - codes), mask)
    expected = alone.report()
    assert_same(padded.report(), expected)
    assert_same(moved.report(), expected)


def test_nothing_but_padding_is_no_use_at_all() -> None:
    usage = Usage([4])
    usage.add(torch.zeros(1, 1, 5, dtype=torch.int64), torch.zeros(1, 5))
    assert_reports(usage.report(), perplexity=[[1.0]], entropy=[[0.0]], dead_share=[[1.0]], bits_per_frame=[[0.0]])


def test_a_window_is_what_came_since_the_last_report() -> None:
    usage = Usage([4])
    usage.add(torch.tensor([[[0, 0]]]))
    usage.add(torch.tensor([[[1]], [[1]]]))
    assert_reports(usage.report(), bits_per_frame=[[1.0]])
    usage.add(torch.tensor([[[2, 2]]]))
    assert_reports(usage.report(), bits_per_frame=[[0.0]], dead_share=[[0.75]])


def test_the_codes_of_a_stack_can_be_reported() -> None:
    quantizer = ResidualVQ([VectorQuantize(4, size, heads=2) for size in (8, 16)])
    usage = Usage(quantizer.codebook_sizes, quantizer.heads)
    usage.add(quantizer(torch.randn(2, 4, 50)).codes)
    report = usage.report()
    assert report.perplexity.shape == (2, 2)
    assert (report.perplexity > 4).all()


@pytest.mark.parametrize("after_a_report", [False, True])
def test_a_report_without_codes_is_refused(after_a_report: bool) -> None:
    usage = Usage([4])
    if after_a_report:
        usage.add(torch.zeros(1, 1, 5, dtype=torch.int64))
        usage.report()
    with pytest.raises(RuntimeError, match=r"^codes must be added before a report; there were none$"):
        usage.report()


@pytest.mark.parametrize(("sizes", "heads"), [([], 1), ([4, 0], 1), ([4], 0), ([-1], 2)])
def test_sizes_that_are_not_positive_are_refused(sizes: list[int], heads: int) -> None:
    message = rf"^codebook_sizes and heads must be positive; got {re.escape(str(sizes))}, {heads}$"
    with pytest.raises(ValueError, match=message):
        Usage(sizes, heads)


@pytest.mark.parametrize(
    ("heads", "shape", "axes"),
    [(1, (2, 2, 5), r"\(3,\)"), (1, (2,), r"\(3,\)"), (2, (2, 3, 5), r"\(3, 2\)"), (2, (2, 2, 3, 5), r"\(3, 2\)")],
)
def test_codes_of_other_stages_or_heads_are_refused(heads: int, shape: tuple[int, ...], axes: str) -> None:
    with pytest.raises(ValueError, match=rf"^codes must have axes {axes} after the batch; got shape \("):
        Usage([4] * 3, heads).add(torch.zeros(shape, dtype=torch.int64))


# Two ranks.


def report_parts(rank, batches: list[Tensor], masks: list[Tensor]) -> list[tuple[UsageReport, int, int]]:
    """Two reports of this rank's examples; the collectives of the adding, and of the report."""
    rank.join()
    usage = Usage([8, 6], heads=2)
    results = []
    for start in (0, 2):
        before = rank.collectives
        for codes, mask in zip(batches[start : start + 2], masks[start : start + 2], strict=True):
            own = slice(0, 1) if rank.index == 0 else slice(1, None)
            usage.add(codes[own], mask[own])
        added = rank.collectives
        results.append((usage.report(), added - before, rank.collectives - added))
    return results


def test_two_ranks_report_what_one_does_of_the_joined_codes(two_ranks) -> None:
    batches = [torch.randint(6, (4, 2, 2, 10)) for _ in range(4)]
    masks = [torch.rand(4, 10) < 0.5 for _ in range(4)]
    masks[2][0] = masks[3][0] = False  # on the first rank, the second report is of padding alone
    first, second = two_ranks(report_parts, batches, masks)
    usage = Usage([8, 6], heads=2)
    for index in range(2):
        for codes, mask in zip(batches[2 * index : 2 * index + 2], masks[2 * index : 2 * index + 2], strict=True):
            usage.add(codes, mask)
        expected = usage.report()
        for report, in_add, in_report in (first[index], second[index]):
            assert (in_add, in_report) == (0, 1)
            assert_same(report, expected)


def report_without_adding(rank) -> tuple[UsageReport, int]:
    """A report in which the second rank takes part without codes of its own."""
    rank.join()
    usage = Usage([8])
    if rank.index == 0:
        usage.add(torch.arange(4).view(1, 1, 4))
    return usage.report(), rank.collectives


def test_a_rank_without_codes_does_not_let_the_others_wait(two_ranks) -> None:
    for report, collectives in two_ranks(report_without_adding):
        assert report.perplexity.item() == pytest.approx(4)
        assert collectives == 1
