import pytest
import torch
from einops import rearrange

from codec.tokens import PATTERNS
from codec.tokens.pattern import OPEN
from codec.tokens.vocabulary import EOS, PAD, SEP

# 3 stages, 4 frames; a2 is the code of stage 0 (a) in frame 2. E eos, S sep, . pad.
GRIDS = {
    "flatten": "a0 b0 c0 a1 b1 c1 a2 b2 c2 a3 b3 c3 E",
    "coarse_first": "a0 a1 a2 a3 S b0 b1 b2 b3 S c0 c1 c2 c3 E",
    "parallel": """a0 a1 a2 a3 E
                   b0 b1 b2 b3 E
                   c0 c1 c2 c3 E""",
    "delay": """a0 a1 a2 a3 E  .  .
                .  b0 b1 b2 b3 E  .
                .  .  c0 c1 c2 c3 E""",
}
SPECIAL = {EOS: "E", SEP: "S", PAD: "."}


def drawn(kind, frame):
    return SPECIAL[kind] if kind < 0 else f"{'abc'[kind]}{frame}"


def cells(name, stages, frames, count):
    return PATTERNS[name].lay_out(torch.arange(count), stages, frames)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_what_its_grid_shows(name):
    grid = [line.split() for line in GRIDS[name].splitlines()]
    assert PATTERNS[name].num_cells(3, 4) == sum(map(len, grid))
    assert (len(grid) == 3) == PATTERNS[name].stacked
    kind, frame = cells(name, 3, 4, PATTERNS[name].num_cells(3, 4))
    stream = [drawn(*cell) for cell in zip(kind.tolist(), frame.tolist(), strict=True)]
    steps = rearrange(torch.arange(len(stream)), "(s w) -> w s", w=len(grid))
    assert [[stream[cell] for cell in row] for row in steps.tolist()] == grid


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("stages", [1, 2, 5])
@pytest.mark.parametrize("frames", [0, 1, 4, 9])
def test_every_pattern_keeps_the_rules(name, stages, frames):
    count = PATTERNS[name].num_cells(stages, frames)
    short, longer, open_ = (cells(name, stages, frames, count) for frames in (frames, frames + 3, OPEN))
    # Where a longer sequence has stage 0 of the next frame, this one is closed, and before that they are the same.
    closes = next(at for at in range(count) if (open_.kind[at], open_.frame[at]) == (0, frames))
    assert torch.equal(short.kind[:closes], longer.kind[:closes])
    assert torch.equal(short.kind[:closes], open_.kind[:closes])
    assert short.kind[closes] == cells(name, stages, 0, 1).kind[0] != longer.kind[closes] == 0
    # Every code is there once, the frames of a stage in order, and stage 0 of a frame before the others.
    order = [(int(kind), int(frame)) for kind, frame in zip(*short, strict=True) if kind >= 0]
    assert sorted(order) == [(stage, frame) for stage in range(stages) for frame in range(frames)]
    for stage, frame in order:
        assert frame == 0 or order.index((stage, frame - 1)) < order.index((stage, frame))
        assert order.index((0, frame)) <= order.index((stage, frame))
    # After the last eos there is nothing but padding.
    assert short.kind[-1] == EOS
    assert cells(name, stages, frames, count + 20).kind[count:].tolist() == [PAD] * 20


@pytest.mark.parametrize("name", PATTERNS)
def test_frames_can_be_heard_one_after_another_where_the_pattern_says_so(name):
    last_stage = (cells(name, 3, OPEN, 100).kind == 2).any()
    assert bool(last_stage) == PATTERNS[name].by_frame
