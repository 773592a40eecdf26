"""Sequences of a tokenized corpus, and the windows of them that a model learns from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codec.lm.recipe import CorpusConfig
from codec.shards import CodesFiles, TokenFiles
from codec.tokens import CodecTokenizer

# Of a position that no loss is taken of.
NOWHERE = -1
# Windows at the beginning and at the end of a sequence, where bos and eos are learned, are as likely as all that begin
# in this part of a window.
EDGE = 8


class Example(NamedTuple):
    """Part of a sequence.

    Attributes:
        ids: [width, steps], int64.
        allowances: Which tokens are legal there, rows of `CodecTokenizer.allowances`;
            NOWHERE in padding; [width, steps].
    """

    ids: Tensor
    allowances: Tensor


class Sequences(Protocol):
    """All sequences of a corpus, in its order.

    Attributes:
        tokenizer: What made them.
        num_steps: Of each, [clips].
    """

    tokenizer: CodecTokenizer
    num_steps: NDArray[np.int64]

    def __getitem__(self, index: int) -> Tensor:
        """Ids, [width, steps], int64."""
        ...


class MappedSequences:
    """Sequences as `codec tokenize` wrote them, in memory-mapped files.

    Args:
        folder: That of the corpus.

    Raises:
        ValueError: There is no finished corpus.
    """

    def __init__(self, folder: Path):
        self._files = TokenFiles(folder)
        self.tokenizer = self._files.tokenizer
        self.num_steps = self._files.num_steps

    def __getitem__(self, index: int) -> Tensor:
        """Ids, [width, steps], int64."""
        return torch.from_numpy(self._files[index].astype(np.int64)).view(self.tokenizer.width, -1)


class CodesSequences:
    """Sequences of another pattern, or of fewer stages, made from the codes in Parquet shards.

    All codes are read at once, and kept as 16-bit integers.

    Args:
        folder: That of the corpus.
        num_quantizers: First stages. 0: as many as the corpus was tokenized with.
        pattern: A name in `codec.tokens.PATTERNS`. "": that of the corpus.

    Raises:
        ValueError: There is no finished corpus, or it has not so many stages, or there is no such pattern.
    """

    def __init__(self, folder: Path, num_quantizers: int, pattern: str):
        files = CodesFiles(folder)
        told = CodecTokenizer.from_pretrained(folder)
        stages = num_quantizers or told.num_quantizers
        if stages > told.num_quantizers:
            raise ValueError(f"data.num_quantizers must be at most {told.num_quantizers}, of {folder}; got {stages}")
        self.tokenizer = CodecTokenizer(
            stages,
            told.codebook_size,
            pattern or told.pattern,
            shared=told.shared,
            extras=told.extras,
            model=told.model,
            fingerprint=told.fingerprint,
            frame_rate=told.frame_rate,
        )
        self._codes = [files[index][:stages].astype(np.uint16) for index in range(len(files))]
        self.num_steps = np.array([self.tokenizer.num_steps(codes.shape[1]) for codes in self._codes], dtype=np.int64)

    def __getitem__(self, index: int) -> Tensor:
        """Ids, [width, steps], int64."""
        return self.tokenizer.encode(self.codes(index)).view(self.tokenizer.width, -1)

    def codes(self, index: int) -> Tensor:
        """What the ids are made of, [num_quantizers, frames], int64."""
        return torch.from_numpy(self._codes[index].astype(np.int64))


def open_sequences(data: CorpusConfig, corpus: str) -> Sequences:
    """The sequences of one of the corpora of a recipe.

    Raises:
        ValueError: It is not there, not finished, or has other stages.
    """
    folder = Path(data.root) / corpus
    if data.num_quantizers or data.pattern:
        sequences: Sequences = CodesSequences(folder, data.num_quantizers, data.pattern)
    else:
        sequences = MappedSequences(folder)
    if not len(sequences.num_steps):
        raise ValueError(f"{folder} must hold clips; it has none")
    return sequences


def example_of(sequences: Sequences, index: int) -> Example:
    """A whole sequence."""
    tokenizer = sequences.tokenizer
    ids = sequences[index]
    return Example(ids, tokenizer.allowances_of(tokenizer.num_frames(ids.shape[1])).view(tokenizer.width, -1))


class Windows:
    """Random windows of sequences, without end.

    A window depends on the seed and its number alone, so a run that is resumed sees what it would have seen. A sequence
    is as likely as it is long; a window begins where a frame does, and at both ends of the sequence more often.

    Args:
        sequences: The corpus.
        steps: Of a window; a shorter sequence is a shorter window, and so may be the end of a longer one.
        seed: Which windows.

    Raises:
        ValueError: Windows are so short that no window could have what follows some step.
    """

    def __init__(self, sequences: Sequences, steps: int, seed: int):
        # bos, and then frames of so many steps.
        self._stride = sequences.tokenizer.steps_per_frame or 1
        if steps <= self._stride:
            raise ValueError(f"data.window_steps must be more than a frame's {self._stride} steps; got {steps}")
        self._sequences = sequences
        self._steps = steps
        self._seed = seed
        self._ends = np.cumsum(sequences.num_steps)

    def __getitem__(self, number: int) -> Example:
        """Window number `number`, from 0 on."""
        random = np.random.default_rng((self._seed, number))
        index = int(np.searchsorted(self._ends, random.integers(self._ends[-1]), side="right"))
        whole = example_of(self._sequences, index)
        stride, length = self._stride, whole.ids.shape[1]
        # Of the places where a window may begin, that of the first one which reaches the end.
        last = 0 if length <= self._steps else 1 + -(-(length - 1 - self._steps) // stride)
        slack = self._steps // (EDGE * stride)
        choice = min(max(int(random.integers(-slack, last + slack + 1)), 0), last)
        begin = 0 if choice == 0 else 1 + (choice - 1) * stride
        return Example(*(part[:, begin : begin + self._steps] for part in whole))

    def batches(self, first_step: int, steps: int, share: int, rank: int, world_size: int) -> Iterator[Example]:
        """The share of a process in the batches of steps: step s has the windows from s * share * world_size on.

        Args:
            first_step: Counted from 0.
            steps: Of the whole run.
            share: Windows of each process in a step.
            rank: This process.
            world_size: Processes that share each step.
        """
        for step in range(first_step, steps):
            first = (step * world_size + rank) * share
            yield join([self[number] for number in range(first, first + share)], self._sequences.tokenizer.pad_id)


def join(examples: Sequence[Example], pad_id: int) -> Example:
    """Examples of several lengths in one, [batch, width, steps], padded at their ends."""
    longest = max(example.ids.shape[1] for example in examples)

    def stack(parts: Sequence[Tensor], value: int) -> Tensor:
        return torch.stack([F.pad(part, (0, longest - part.shape[1]), value=value) for part in parts])

    ids, allowances = zip(*examples, strict=True)
    return Example(stack(ids, pad_id), stack(allowances, NOWHERE))
