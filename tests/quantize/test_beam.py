import itertools
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from codec import Codec
from codec.quantize import GroupedResidualVQ, ResidualVQ, VectorQuantize
from codec.quantize import beam as module
from codec.quantize.distance import DISTANCES

DIM, SIZE, STAGES = 4, 5, 3

each_distance = pytest.mark.parametrize("distance", DISTANCES)


def trained(stages: list[VectorQuantize], **options) -> ResidualVQ:
    """A stack that has seen a batch, in eval mode."""
    quantizer = ResidualVQ(stages, **options)
    quantizer(torch.randn(4, quantizer.dim, 50))
    return quantizer.eval()


def make_stages(count: int = STAGES, size: int = SIZE, **options) -> list[VectorQuantize]:
    return [VectorQuantize(DIM, size, **options) for _ in range(count)]


def shared(stage: VectorQuantize) -> list[VectorQuantize]:
    return [stage] * STAGES


STACKS = {
    "equal": make_stages,
    "sizes that differ": lambda: [VectorQuantize(DIM, size) for size in (2, 7, 3)],
    "cosine": lambda: make_stages(distance="cosine"),
    "unit cosine": lambda: make_stages(distance="unit_cosine"),
    "projected": lambda: make_stages(codebook_dim=2),
    "projected cosine": lambda: make_stages(codebook_dim=2, distance="cosine"),
    "shared": lambda: shared(*make_stages(1)),
    "mixed": lambda: [*make_stages(1, distance="cosine"), *make_stages(1, codebook_dim=3), *make_stages(1)],
}
each_stack = pytest.mark.parametrize("stages", STACKS.values(), ids=STACKS)


def errors(quantizer: ResidualVQ, x: Tensor, codes: Tensor) -> Tensor:
    """Squared length of what each position of [batch, dim, frames] loses, [batch, frames]."""
    return (x - quantizer.decode(codes)).square().sum(1)


def every_sequence(quantizer: ResidualVQ, x: Tensor) -> Tensor:
    """What each position loses with each sequence of codes there is, [sequences, batch, frames]."""
    sequences = torch.tensor(list(itertools.product(*map(range, quantizer.codebook_sizes))))
    expand = torch.ones(x.shape[0], 1, x.shape[2], dtype=torch.int64)
    return torch.stack([errors(quantizer, x, sequence[None, :, None] * expand) for sequence in sequences])


@each_stack
def test_a_wide_beam_finds_the_best_of_all_sequences(stages) -> None:
    quantizer = trained(stages())
    x = torch.randn(2, DIM, 20)
    best = every_sequence(quantizer, x).amin(0)
    torch.testing.assert_close(errors(quantizer, x, quantizer.encode(x, beam_size=49)), best)
    # The nearest code at each stage is another sequence, for some: else nothing was searched for.
    assert (errors(quantizer, x, quantizer.encode(x)) > best + 1e-3).any()


def test_the_search_is_in_the_space_of_the_stages() -> None:
    quantizer = trained(make_stages(), dim=7)
    x = torch.randn(2, 7, 20)
    inside = ResidualVQ(list(quantizer.stages)).eval()
    projected = quantizer.project_in(x.movedim(1, -1)).movedim(-1, 1)
    codes = quantizer.encode(x, beam_size=25)
    torch.testing.assert_close(errors(inside, projected, codes), every_sequence(inside, projected).amin(0))


@each_stack
@pytest.mark.parametrize("beam_size", [2, 3, 8])
def test_a_beam_loses_less_than_the_nearest_codes_at_any_number_of_stages(stages, beam_size: int) -> None:
    quantizer = trained(stages())
    x = torch.randn(4, DIM, 100)
    for count in range(1, STAGES + 1):
        lost = errors(quantizer, x, quantizer.encode(x, count, beam_size=beam_size)).mean()
        assert lost <= errors(quantizer, x, quantizer.encode(x, count)).mean() + 1e-6


def slow_search(stages: list[VectorQuantize], row: Tensor, beam_size: int) -> list[int]:
    """Every continuation of every sequence that is kept, one after the other."""
    kept: list[tuple[float, list[int], Tensor]] = [(0.0, [], row)]
    for stage in stages:
        vectors = stage.codebook.code_vectors().double()
        left = [([*codes, code], rest - vector) for _, codes, rest in kept for code, vector in enumerate(vectors)]
        every = [(float(rest.square().sum()), codes, rest) for codes, rest in left]
        kept = sorted(every, key=lambda each: each[0])[:beam_size]
    return kept[0][1]


@pytest.mark.parametrize("beam_size", [2, 3, 40])
@pytest.mark.parametrize("offset", [0, 100])  # latents far from the origin
@pytest.mark.parametrize("sizes", [(7, 3, 5), (16, 320, 256)])  # searched at once, and in groups
def test_it_keeps_the_best_of_all_continuations(sizes: tuple[int, ...], offset: int, beam_size: int) -> None:
    quantizer = trained([VectorQuantize(DIM, size, initializer="uniform") for size in sizes])
    for stage in quantizer.stages:
        stage.codebook.vectors.normal_()
    quantizer.stages[0].codebook.vectors.add_(offset)
    rows = offset + torch.randn(6, DIM)
    expected = [slow_search(list(quantizer.stages), row.double(), beam_size) for row in rows]
    assert quantizer.encode(rows, beam_size=beam_size).tolist() == expected


@each_distance
def test_a_beam_of_one_is_the_nearest_code_of_each_stage(distance: str) -> None:
    quantizer = trained(make_stages(distance=distance))
    x = torch.randn(2, DIM, 50)
    rows = x.movedim(1, -1).flatten(0, 1)
    expected = quantizer.encode(x)
    assert torch.equal(quantizer.encode(x, beam_size=1), expected)
    found = module.BeamSearch(list(quantizer.stages))(rows, 1)
    assert torch.equal(found, expected.movedim(1, -1).flatten(0, 1))


def test_of_one_stage_the_nearest_code_is_the_best() -> None:
    quantizer = trained(make_stages())
    x = torch.randn(2, DIM, 50)
    assert torch.equal(quantizer.encode(x, 1, beam_size=4), quantizer.encode(x, 1))


def test_it_keeps_the_sequence_that_is_best_in_the_end() -> None:
    # To 4, 3 is nearer than 6. But the second stage can make up for -2 only.
    quantizer = trained([VectorQuantize(1, 2), VectorQuantize(1, 2)])
    for stage, vectors in zip(quantizer.stages, ([3.0, 6.0], [-2.0, 10.0]), strict=True):
        stage.codebook.vectors.copy_(torch.tensor(vectors)[:, None])
    x = torch.full((1, 1, 1), 4.0)
    assert quantizer.encode(x).flatten().tolist() == [0, 0]  # 3 - 2 = 1
    assert quantizer.encode(x, beam_size=2).flatten().tolist() == [1, 0]  # 6 - 2 = 4
    assert quantizer.encode(x, 1, beam_size=2).flatten().tolist() == [0]


@pytest.mark.parametrize("positions", [(), (7,), (3, 4)])
def test_shapes_are_those_of_the_nearest_codes(positions: tuple[int, ...]) -> None:
    quantizer = trained([VectorQuantize(DIM, 2), VectorQuantize(DIM, 9)])
    x = torch.randn(2, DIM, *positions)
    codes = quantizer.encode(x, beam_size=4)
    assert codes.shape == (2, 2, *positions)
    assert codes.dtype == torch.int64
    # Each position is searched for alone.
    rows = x.reshape(2, DIM, -1).movedim(1, -1).flatten(0, 1)
    alone = torch.stack([quantizer.encode(row[None], beam_size=4)[0] for row in rows])
    assert torch.equal(codes.reshape(2, 2, -1).movedim(1, -1).flatten(0, 1), alone)


def test_no_rows_have_no_codes() -> None:
    quantizer = trained(make_stages())
    assert quantizer.encode(torch.zeros(2, DIM, 0), beam_size=4).shape == (2, STAGES, 0)
    assert quantizer.encode(torch.zeros(0, DIM, 5), beam_size=4).shape == (0, STAGES, 5)


@each_stack
@pytest.mark.parametrize("block", [1, 7, 30])
def test_blocks_give_the_codes_of_the_whole(stages, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = trained(stages())
    x = torch.randn(2, DIM, 20)
    expected = quantizer.encode(x, beam_size=3)
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    assert torch.equal(quantizer.encode(x, beam_size=3), expected)


def test_memory_does_not_grow_with_the_number_of_rows(largest_tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 32)
    quantizer = trained(make_stages(size=64))
    x = torch.randn(1, DIM, 1000)
    with largest_tensor:
        quantizer.encode(x, beam_size=4)
    # 8 rows at a time, of each 4 beams with 64 distances.
    assert largest_tensor.elements == max(x.numel(), 8 * 4 * 64)


def test_each_group_is_searched() -> None:
    groups = [trained(make_stages()) for _ in range(2)]
    quantizer = GroupedResidualVQ(groups).eval()
    x = torch.randn(2, 2 * DIM, 20)
    expected = [group.encode(part, 2, beam_size=3) for group, part in zip(groups, x.chunk(2, dim=1), strict=True)]
    assert torch.equal(quantizer.encode(x, 2, beam_size=3), torch.stack(expected, dim=1))


@pytest.mark.parametrize(("heads", "beam_size"), [(1, 0), (1, -1), (2, 4), (2, 0)])
def test_a_beam_that_cannot_be_is_refused(heads: int, beam_size: int) -> None:
    quantizer = trained(make_stages(heads=heads))
    with pytest.raises(ValueError, match=rf"^beam_size must be positive, and 1 with several heads; got {beam_size}$"):
        quantizer.encode(torch.randn(2, DIM, 5), beam_size=beam_size)


@pytest.fixture(scope="module")
def speech_latents(clips: list[Path]) -> tuple[ResidualVQ, Tensor]:
    """The quantizer of the shipped model, and its latents of 13 s of real speech, [1, dim, frames]."""
    codec = Codec.from_pretrained("speech_16khz")
    waveforms = [torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None, None] for clip in clips]
    with torch.no_grad():
        return codec.quantizer, torch.cat([codec.encode_latents(waveform) for waveform in waveforms], dim=2)


@pytest.mark.parametrize("stages", [1, 2, 3, 6, 12])
def test_a_beam_of_four_loses_less_of_real_speech(speech_latents: tuple[ResidualVQ, Tensor], stages: int) -> None:
    quantizer, latents = speech_latents
    nearest, beam = (quantizer.encode(latents, stages, beam_size=size) for size in (1, 4))
    if stages == 1:  # there is nothing after the first stage to prepare for: the nearest code is the best
        assert torch.equal(beam, nearest)
    else:
        lost, lost_by_nearest = (errors(quantizer, latents, codes).mean() for codes in (beam, nearest))
        assert lost < 0.9995 * lost_by_nearest
