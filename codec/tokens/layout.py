"""A pattern filled with the ids of a vocabulary: streams of cells <-> codes, for whatever pattern.

Streams are one-dimensional, [cells], and have no bos: steps, rows and bos are the tokenizer's.
"""

from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.tokens.pattern import OPEN, Cells, Pattern
from codec.tokens.vocabulary import BOS, EOS, PAD, SEP, Vocabulary


class Layout:
    """Where each code stands, and what else may stand there.

    Args:
        vocabulary: Whose ids.
        pattern: In which order.

    Attributes:
        width: Rows of a step.
        closing: Kind of the token that tells that no further frame comes: EOS, or the SEP after stage 0.
        ids: By kind, which may be negative: all ids of that kind.
        allowances: The sets of ids that are legal somewhere: of each stage, then of PAD, BOS, EOS and SEP;
            bool [num_quantizers + 4, vocabulary.size]. Where stage 0 may go on, the sequence may also close: there is
            no cell for stage 0 alone.
    """

    def __init__(self, vocabulary: Vocabulary, pattern: Pattern):
        self.vocabulary = vocabulary
        self.pattern = pattern
        self.stages = vocabulary.num_quantizers
        self.width = self.stages if pattern.stacked else 1
        self.ids = [vocabulary.ids_of(kind) for kind in (*range(self.stages), PAD, BOS, EOS, SEP)]
        self._first_ids = torch.tensor([ids.start for ids in self.ids])
        # A sequence without frames closes at once.
        self.closing = int(self.cells(torch.zeros(1, dtype=torch.int64), 0).kind)
        self.allowances = torch.zeros(len(self.ids), vocabulary.size, dtype=torch.bool)
        for allowed, ids in zip(self.allowances, self.ids, strict=True):
            allowed[ids.start : ids.stop] = True
        self.allowances[0] |= self.allowances[self.closing]

    def cells(self, cell: Tensor, frames: int = OPEN) -> Cells:
        """What stands in cells of a sequence of so many frames, or of one that is not over yet."""
        return self.pattern.lay_out(cell, self.stages, frames)

    def num_cells(self, frames: int) -> int:
        """Cells of a sequence of so many frames, with its eos."""
        return self.pattern.num_cells(self.stages, frames)

    def encode(self, codes: Tensor) -> Tensor:
        """Ids of the stream that holds the codes, [cells].

        Args:
            codes: [num_quantizers, frames], int64, below the codebook's size.
        """
        frames = codes.shape[1]
        kind, frame = self.cells(torch.arange(self.num_cells(frames), device=codes.device), frames)
        # The zero at the end is for the cells that hold no code.
        place = torch.where(kind >= 0, kind * frames + frame, -1)
        return self._first_ids.to(codes.device)[kind] + F.pad(codes.flatten(), (0, 1))[place]

    def decode(self, stream: Tensor, first_step: int = 0) -> Tensor:
        """The whole frames of a stream, or of the beginning of one.

        Args:
            stream: Ids, [cells], int64.
            first_step: Number of its first step, for messages.

        Returns:
            Codes, [num_quantizers, frames].

        Raises:
            ValueError: The stream has an id where it is not legal; the message has the first place of such.
        """
        cell = torch.arange(stream.shape[0], device=stream.device)
        closed_at, frames = self._closing(stream, cell)
        kind, frame = self.cells(cell, frames)
        first = self._first_ids.to(stream.device)[kind]
        is_code = kind >= 0
        code = stream - first
        illegal = (code < 0) | (code >= torch.where(is_code, self.vocabulary.codebook_size, 1))
        if illegal.any():
            at = int(illegal.int().argmax())
            choices = (self.ids[0], self.ids[self.closing]) if at == closed_at else (self.ids[int(kind[at])],)
            self.refuse(int(stream[at]), choices, at + first_step * self.width)
        (places,) = torch.where(is_code)
        kind, frame, code = kind[places], frame[places], code[places]
        codes = torch.full((self.stages, int(frame.max()) + 1 if len(frame) else 0), -1, device=stream.device)
        codes[kind, frame] = code
        return codes[:, : int((codes >= 0).all(0).sum())]

    def allowances_of(self, frames: int) -> Tensor:
        """Which row of `allowances` holds in each cell of a sequence, [cells]."""
        cell = torch.arange(self.num_cells(frames))
        kind, open_cells = self.cells(cell, frames).kind, self.cells(cell)
        closes = (open_cells.kind == 0) & (open_cells.frame == frames)
        return torch.where(closes, 0, kind) % len(self.allowances)

    def refuse(self, token: int, choices: tuple[range, ...], cell: int) -> NoReturn:
        """Raise the error of an illegal id.

        Args:
            token: The id.
            choices: What is legal in its place; of them, empty ones count for nothing.
            cell: Its number.
        """
        legal = " or ".join(self.vocabulary.describe(ids) for ids in choices if ids)
        step, row = divmod(cell, self.width)
        place = f"step {step}, row {row}" if self.width > 1 else f"position {step}"
        raise ValueError(f"token at {place} must be {legal}; got {token}")

    def _closing(self, stream: Tensor, cell: Tensor) -> tuple[int, int]:
        """In which cell stage 0 does not go on, and after how many frames; -1 and OPEN if it goes on to the end."""
        kind, frame = self.cells(cell)
        code = stream - self.ids[0].start
        (closes,) = torch.where((kind == 0) & ((code < 0) | (code >= self.vocabulary.codebook_size)))
        return (int(closes[0]), int(frame[closes[0]])) if len(closes) else (-1, OPEN)
