"""What may come next in a sequence that is being made."""

from collections.abc import Iterator

import torch
from torch import Tensor

from codec.tokens.layout import Layout
from codec.tokens.pattern import OPEN

# Cells that are looked ahead to at once, so that one takes no tensor operation.
WINDOW = 256
NOTHING = range(0)


class Grammar:
    """The state of one sequence, cell by cell after bos; `CodecTokenizer.grammar` makes it.

    Where a step has several rows, each is asked for and pushed on its own: so rows that are sampled from the logits of
    one step agree on what the first of them decided, such as that the sequence is over.

        grammar = tokenizer.grammar()
        while not grammar.ended:
            grammar.push(sample(logits.cpu().masked_fill(~grammar.legal(), -torch.inf)))

    Args:
        layout: Of the sequence.
        prompt: Codes that the sequence begins with, [num_quantizers, frames].
        max_frames: Most frames of the sequence. None: no limit.

    Raises:
        ValueError: The prompt has more than `max_frames`.
    """

    def __init__(self, layout: Layout, prompt: Tensor, max_frames: int | None = None):
        self._prompt: list[list[int]] = prompt.tolist()
        self._prompt_frames = prompt.shape[1]
        self._max_frames = OPEN if max_frames is None else max_frames
        if self._max_frames < self._prompt_frames:
            raise ValueError(
                f"max_frames must be at least the {self._prompt_frames} frames of the prompt; got {max_frames}"
            )
        self._layout = layout
        self._frames = OPEN
        self._codes: list[list[int]] = [[] for _ in range(layout.stages)]
        self._cell = 0
        self._cells = self._walk()
        self._kind, self._frame = next(self._cells)

    @property
    def ended(self) -> bool:
        """Whether the last eos is there. After it only pad is legal."""
        return self._frames < OPEN and self._cell >= self._layout.num_cells(self._frames)

    @property
    def num_frames(self) -> int:
        """Whole frames so far."""
        return min(map(len, self._codes))

    def codes(self, start: int = 0) -> Tensor:
        """The whole frames so far, but for the first `start`: [num_quantizers, num_frames - start], int64."""
        end = self.num_frames
        return torch.tensor([codes[start:end] for codes in self._codes], dtype=torch.int64)

    def legal(self) -> Tensor:
        """Which tokens may come next: bool [vocab_size], at least one of them True; on the CPU.

        While the prompt lasts, it is the prompt's code alone.
        """
        legal = torch.zeros(self._layout.vocabulary.size, dtype=torch.bool)
        for ids in self._choices():
            legal[ids.start : ids.stop] = True
        return legal

    def push(self, token: int) -> None:
        """Append a token.

        Raises:
            ValueError: It is not legal; the message has its place, counted from the first one after bos.
        """
        codes, closing = self._choices()
        if token in closing:
            self._frames = self._frame
            self._cells = self._walk()
            next(self._cells)
        elif token not in codes:
            self._layout.refuse(token, (codes, closing), self._cell)
        elif self._kind >= 0:
            self._codes[self._kind].append(token - self._layout.ids[self._kind].start)
        self._cell += 1
        self._kind, self._frame = next(self._cells)

    def _choices(self) -> tuple[range, range]:
        """Ids of the next cell that are legal: those of its kind, and the one that closes the sequence."""
        ids = self._layout.ids[self._kind]
        if self._kind >= 0 and self._frame < self._prompt_frames:
            token = ids[self._prompt[self._kind][self._frame]]
            return range(token, token + 1), NOTHING
        if self._kind != 0:
            return ids, NOTHING
        return NOTHING if self._frame == self._max_frames else ids, self._layout.ids[self._layout.closing]

    def _walk(self) -> Iterator[tuple[int, int]]:
        """Kinds and frames from the present cell on."""
        first, frames = self._cell, self._frames
        while True:
            kind, frame = self._layout.cells(torch.arange(first, first + WINDOW), frames)
            yield from zip(kind.tolist(), frame.tolist(), strict=True)
            first += WINDOW
