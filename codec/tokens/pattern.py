"""In which order the codes of several stages follow one another.

A sequence is a stream of cells, step by step; a step has one cell, or one for each stage (its rows). A pattern is one
formula that tells what stands in a cell of a sequence of so many frames. Encoding, its inverse and the grammar of legal
tokens all follow from it (`codec.tokens.layout`), if it keeps to three rules:

- Of each frame stage 0 comes first, and the frames of a stage come in order.
- Sequences of `frames` and of more frames are the same up to the cell where the longer one has stage 0 of frame number
  `frames`. There the shorter one has another kind of token, the same whatever `frames` is: it closes the sequence.
- After its last eos there is padding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from codec.tokens.vocabulary import EOS, PAD, SEP

# Frames of a sequence that is not over yet: more than any has.
OPEN = 1 << 40


class Cells(NamedTuple):
    """What stands in cells; both are of the shape of the cells' numbers, int64.

    Attributes:
        kind: The stage whose code it is, from 0; or PAD, EOS, SEP.
        frame: Of that code; elsewhere it means nothing.
    """

    kind: Tensor
    frame: Tensor


def flatten(cell: Tensor, stages: int, frames: int) -> Cells:
    """Frame by frame, and in each stage by stage; then eos."""
    stage, frame = cell % stages, cell // stages
    end = torch.where(cell == stages * frames, EOS, PAD)
    return Cells(torch.where(frame < frames, stage, end), frame)


def coarse_first(cell: Tensor, stages: int, frames: int) -> Cells:
    """Stage by stage, and in each frame by frame; sep after each, eos after the last (as AudioLM, arXiv 2209.03143)."""
    stage, frame = cell // (frames + 1), cell % (frames + 1)
    end = torch.where(stage < stages - 1, SEP, EOS)
    kind = torch.where(frame < frames, stage, end)
    return Cells(torch.where(stage < stages, kind, PAD), frame)


def parallel(cell: Tensor, stages: int, frames: int) -> Cells:
    """A step is a frame, a row is a stage; then a step of eos."""
    stage, frame = cell % stages, cell // stages
    end = torch.where(frame == frames, EOS, PAD)
    return Cells(torch.where(frame < frames, stage, end), frame)


def delay(cell: Tensor, stages: int, frames: int) -> Cells:
    """Row q is stage q, later by q steps; eos is frame number `frames` of every row (MusicGen, arXiv 2306.05284)."""
    stage = cell % stages
    frame = cell // stages - stage
    end = torch.where(frame == frames, EOS, PAD)
    kind = torch.where(frame < frames, stage, end)
    return Cells(torch.where(frame < 0, PAD, kind), frame)


@dataclass(frozen=True)
class Pattern:
    """A pattern, and what it costs.

    Attributes:
        lay_out: `(cell, stages, frames) -> Cells`: what stands in the cells of these numbers.
        num_cells: `(stages, frames) -> int`: cells up to and with the last eos.
        stacked: A step has a row for each stage, predicted at once; otherwise it has one cell.
        by_frame: Frames end one after another, so that they can be heard while the sequence is being made.
    """

    lay_out: Callable[[Tensor, int, int], Cells]
    num_cells: Callable[[int, int], int]
    stacked: bool
    by_frame: bool = True


# flatten: every code sees all codes before it; the longest sequences.
# coarse_first: as long, the outline of the whole before its details.
# parallel: the shortest; the stages of a frame do not see each other.
# delay: nearly as short, and stage q of a frame sees its stages below q.
PATTERNS: dict[str, Pattern] = {
    "flatten": Pattern(flatten, lambda stages, frames: stages * frames + 1, stacked=False),
    "coarse_first": Pattern(coarse_first, lambda stages, frames: stages * (frames + 1), stacked=False, by_frame=False),
    "parallel": Pattern(parallel, lambda stages, frames: stages * (frames + 1), stacked=True),
    "delay": Pattern(delay, lambda stages, frames: stages * (frames + stages), stacked=True),
}
