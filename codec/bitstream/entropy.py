"""Codes to fewer bytes by integer tables of how often each follows what, and back.

A code is coded as two digits, each under a distribution that the codes around it choose: the code of the frame before
(same stage), the first stage's code of the frame, and the code of the stage before (same frame). Codes that mean much
the same as neighbours share a context, and codes that come in like contexts share their high digit: the tables say
which. All codes whose frame and stage have the same sum are coded together, since none is a neighbour of another.

The coder is the asymmetric numeral system of the library constriction, with a 64-bit state, words of 32 bits and
probabilities of 24 bits (Duda, arXiv 1311.2540). Weights are integers with a sum of 2 ** 16, so that every float64
operation in the library is exact, and the bytes are the same on every machine. docs/format.md has them one by one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from math import isqrt
from typing import TypeAlias

import constriction
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from codec.bitstream.layout import Layout, digit_order, make_layout

TOTAL_WEIGHT = 1 << 16
MAX_CODEBOOK_SIZE = 1 << 16
# Frames are decoded one after the other, and zeros take no bytes: this bounds what a small payload can cost.
MAX_FRAMES = 1 << 14
DIGITS = 2
# The code of the frame before, the first stage's code, the code of the stage before.
NEIGHBOURS = 3
# No digit has less than 1 of the coder's 2 ** 24 parts; the state at the end is 8 bytes.
_MAX_CODE_BYTES = 3 * DIGITS
_STATE_BYTES = 8
# The first digit that goes into an empty coder takes 24 bits, whatever its weight: about 20 too many. So the coder
# starts from as many codes as 20 bits hold, as they are.
_TAIL_BITS = 20
# Digits whose distributions are in memory at the same time.
_BLOCK = 1 << 14

# Its modules are attributes, which cannot be imported from.
AnsCoder: TypeAlias = constriction.stream.stack.AnsCoder
_DISTRIBUTIONS = constriction.stream.model.Categorical(perfect=False)


def digit_base(codebook_size: int) -> int:
    """The least base in which two digits tell all codes of a codebook apart."""
    return isqrt(codebook_size - 1) + 1


@dataclass(frozen=True, eq=False)
class EntropyTables:
    """What it takes to entropy-code the codes of one model: a `ChunkCoder`.

    The digits of a code are rank // base and rank % base, with base = `digit_base(codebook_size)`. The row of `weights`
    that a digit is coded with is the sum of what `contexts` has for the neighbours of the code; for the low digit, the
    high digit is added.

    Attributes:
        ranks: Place of each code in an order of its stage: permutations, [num_quantizers, codebook_size].
        contexts: By stage, digit (high, low), neighbour (frame before, first stage, stage before) and the neighbour's
            code, [num_quantizers, 2, 3, codebook_size + 1]. The last entry is for a neighbour that is not there: before
            the first frame of a chunk, or before the first stage.
        weights: Distributions of a digit: positive, each row with a sum of 2 ** 16, [rows, base].

    All are uint16, and not checked: `from_arrays` does that.
    """

    ranks: NDArray[np.uint16]
    contexts: NDArray[np.uint16]
    weights: NDArray[np.uint16]

    @property
    def num_quantizers(self) -> int:
        """Stages; any number of first stages can be coded."""
        return int(self.ranks.shape[0])

    @property
    def codebook_size(self) -> int:
        """Codes of each stage."""
        return int(self.ranks.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell these tables from others; stored in the files that are coded with them."""
        digest = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            digest.update(f"{name} {array.shape}\n".encode())
            digest.update(array.astype("<u2").tobytes())
        return digest.hexdigest()[:16]

    def to_arrays(self) -> dict[str, NDArray[np.uint16]]:
        """The arrays by name, to be stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "EntropyTables":
        """Undo `to_arrays`, for arrays of unknown origin.

        Raises:
            ValueError: They are not tables that every code can be coded with and decoded again.
        """
        names = sorted(field.name for field in fields(cls))
        if sorted(arrays) != names:
            raise ValueError(f"entropy tables must be {', '.join(names)}; got {', '.join(sorted(arrays)) or 'nothing'}")
        for name, array in arrays.items():
            if array.dtype != np.uint16:
                raise ValueError(f"{name} must be of type uint16; got {array.dtype}")
        tables = cls(**{name: np.ascontiguousarray(array, dtype=np.uint16) for name, array in arrays.items()})
        _check_tables(tables)
        return tables

    def encode(self, codes: NDArray[np.integer]) -> bytes:
        """Code a chunk.

        Args:
            codes: Of any number of first stages, [channels, num_quantizers, frames].

        Raises:
            ValueError: `codes` is of another shape or kind, has more stages, or a code that is not in its codebook.
        """
        layout, digits, rows = self._digits(codes)
        order = digit_order(layout.diagonals)
        symbols = digits[:, : layout.num_coded].reshape(-1)[order].astype(np.int32)
        rows = rows[:, : layout.num_coded].reshape(-1)[order]
        coder = AnsCoder(self._to_state(codes.reshape(-1)[layout.tail]))
        # From the last block to the first, as the coder goes within a block: what it codes last is decoded first.
        for start in reversed(range(0, len(symbols), _BLOCK)):
            block = slice(start, start + _BLOCK)
            coder.encode_reverse(symbols[block], _DISTRIBUTIONS, self._weights[rows[block]])
        # The last word is never zero, so the decoder can put back its zero bytes.
        return bytes(coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))

    def decode(self, payload: bytes | memoryview, channels: int, num_quantizers: int, frames: int) -> NDArray[np.int64]:
        """Undo `encode`.

        Args:
            payload: Exactly the bytes that `encode` returned.
            channels: Of the codes, as are `num_quantizers` and `frames`. Their product is the caller's to bound: time
                and memory are in proportion to it, whatever the payload.

        Returns:
            [channels, num_quantizers, frames].

        Raises:
            ValueError: `encode` does not return such bytes for such codes.
        """
        self._check_shape(num_quantizers, frames)
        coder = AnsCoder(_to_words(payload, channels * num_quantizers * frames))
        layout = self._layout(channels, num_quantizers, frames)
        codes = self._decode_diagonals(coder, layout)
        codes.reshape(-1)[layout.tail] = self._from_state(coder.get_compressed(), len(layout.tail))
        if (codes == self.codebook_size).any():
            raise ValueError(f"codes must be 0 to {self.codebook_size - 1}; got more")
        return codes

    def bits(self, codes: NDArray[np.integer]) -> NDArray[np.float64]:
        """Bits that the codes of each stage take, by their weights. `encode` adds at most a few bytes to a chunk.

        Args:
            codes: Of one chunk, [channels, num_quantizers, frames].

        Returns:
            [num_quantizers].

        Raises:
            ValueError: As `encode`.
        """
        layout, digits, rows = self._digits(codes)
        bits = -np.log2(self._weights[rows, digits] / TOTAL_WEIGHT).sum(0)
        return np.bincount(layout.stages, weights=bits, minlength=codes.shape[1]).astype(np.float64)

    def _check_codes(self, codes: NDArray[np.integer]) -> None:
        if codes.ndim != 3 or codes.dtype.kind not in "iu":
            wanted = "integers, [channels, num_quantizers, frames]"
            raise ValueError(f"codes must be {wanted}; got {codes.dtype}, {list(codes.shape)}")
        self._check_shape(codes.shape[1], codes.shape[2])
        if codes.size and not (codes.min() >= 0 and codes.max() < self.codebook_size):
            raise ValueError(f"codes must be 0 to {self.codebook_size - 1}; got {codes.min()} to {codes.max()}")

    def _check_shape(self, num_quantizers: int, frames: int) -> None:
        if not 1 <= num_quantizers <= self.num_quantizers:
            raise ValueError(f"codes must have 1 to {self.num_quantizers} stages; got {num_quantizers}")
        if frames > MAX_FRAMES:
            raise ValueError(f"codes of a chunk must have at most {MAX_FRAMES} frames; got {frames}")

    def _digits(self, codes: NDArray[np.integer]) -> tuple[Layout, NDArray[np.int64], NDArray[np.int64]]:
        """Where codes stand, their digits, and the rows of these: [2, codes], in the order of coding."""
        self._check_codes(codes)
        layout = self._layout(*codes.shape)
        cells = layout.empty_cells(self.codebook_size)
        cells[:, 1:, 1:] = codes
        cells = cells.reshape(-1)
        digits = np.stack(np.divmod(self.ranks[layout.stages, cells[layout.cells]].astype(np.int64), self._base))
        rows = self._rows(layout, slice(None), cells)
        rows[1] += digits[0]
        return layout, digits, rows

    def _layout(self, channels: int, num_quantizers: int, frames: int) -> Layout:
        return make_layout(channels, num_quantizers, frames, self._tail)

    def _to_state(self, tail: NDArray[np.integer]) -> NDArray[np.uint32]:
        """What the coder starts from: the last codes, of which the first is the lowest digit."""
        state = sum(int(code) * self.codebook_size**index for index, code in enumerate(tail))
        return np.array([state] if state else [], dtype=np.uint32)

    def _from_state(self, words: NDArray[np.uint32], count: int) -> list[int]:
        state = int(words[0]) if len(words) else 0
        if len(words) > 1 or state >= self.codebook_size**count:
            raise ValueError("payload must end with its last code; got more")
        return [state // self.codebook_size**index % self.codebook_size for index in range(count)]

    def _decode_diagonals(self, coder: AnsCoder, layout: Layout) -> NDArray[np.int64]:
        whole = layout.empty_cells(self.codebook_size)
        cells = whole.reshape(-1)
        for start, stop in pairwise(layout.diagonals):
            if coder.is_empty():
                # From here on all digits are 0, without a look at the tables: no bytes, no time.
                cells[layout.cells[start:]] = self._codes[layout.stages[start:], 0]
                break
            part = slice(start, stop)
            rows = self._rows(layout, part, cells)
            high = self._decode_digits(coder, rows[0])
            low = self._decode_digits(coder, rows[1] + high)
            cells[layout.cells[part]] = self._codes[layout.stages[part], high * self._base + low]
        return whole[:, 1:, 1:].copy()

    def _decode_digits(self, coder: AnsCoder, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        blocks = (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
        digits = [coder.decode(_DISTRIBUTIONS, self._weights[block]) for block in blocks]
        return digits[0] if len(digits) == 1 else np.concatenate(digits)

    def _rows(self, layout: Layout, part: slice, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the high digits, and of the low digits if the high ones are 0, [2, codes]."""
        before, first, above = self._contexts
        places = layout.cells[part]
        offsets = layout.stages[part] * (self.codebook_size + 1)
        return (
            before.take(offsets + cells.take(places - 1), axis=1)
            + first.take(offsets + cells.take(layout.first[part]), axis=1)
            + above.take(offsets + cells.take(places - layout.row), axis=1)
        )

    @cached_property
    def _base(self) -> int:
        return digit_base(self.codebook_size)

    @cached_property
    def _tail(self) -> int:
        return max(count for count in range(_TAIL_BITS + 1) if self.codebook_size**count <= 1 << _TAIL_BITS)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return self.weights.astype(np.float64)

    @cached_property
    def _contexts(self) -> NDArray[np.int64]:
        """[neighbour, digit, num_quantizers * (codebook_size + 1)]."""
        return np.array(rearrange(self.contexts, "q digit neighbour k -> neighbour digit (q k)"), dtype=np.int64)

    @cached_property
    def _codes(self) -> NDArray[np.int64]:
        """Codes by rank, [num_quantizers, base ** 2]; `codebook_size` stands where there is none."""
        codes = np.full((self.num_quantizers, self._base**2), self.codebook_size, dtype=np.int64)
        np.put_along_axis(codes, self.ranks.astype(np.int64), np.arange(self.codebook_size)[None], axis=1)
        return codes


def _to_words(payload: bytes | memoryview, count: int) -> NDArray[np.uint32]:
    most = _MAX_CODE_BYTES * count + _STATE_BYTES
    if len(payload) > most:
        raise ValueError(f"payload of {count} codes must be at most {most} bytes; got {len(payload)}")
    if len(payload) and payload[-1] == 0:
        raise ValueError("payload must not end with a zero byte; got one")
    padded = bytes(payload) + bytes(-len(payload) % 4)
    return np.frombuffer(padded, dtype="<u4").astype(np.uint32)


def _check_tables(tables: EntropyTables) -> None:
    ranks, contexts, weights = tables.ranks, tables.contexts, tables.weights
    if ranks.ndim != 2 or ranks.shape[0] < 1 or not 2 <= ranks.shape[1] <= MAX_CODEBOOK_SIZE:
        raise ValueError(f"ranks must be [num_quantizers, codebook_size]; got shape {ranks.shape}")
    if (np.sort(ranks, axis=1) != np.arange(ranks.shape[1])).any():
        raise ValueError("ranks must be a permutation for each stage; got others")
    shape = (ranks.shape[0], DIGITS, NEIGHBOURS, ranks.shape[1] + 1)
    if contexts.shape != shape:
        raise ValueError(f"contexts must have shape {shape}; got {contexts.shape}")
    base = digit_base(ranks.shape[1])
    if weights.ndim != 2 or weights.shape[1] != base:
        raise ValueError(f"weights must be [rows, {base}]; got shape {weights.shape}")
    if (weights == 0).any() or (weights.sum(1, dtype=np.int64) != TOTAL_WEIGHT).any():
        raise ValueError(f"weights must be positive, with a sum of {TOTAL_WEIGHT} in each row; got others")
    last_rows = contexts.max(-1).sum(-1, dtype=np.int64) + np.array([0, base - 1])
    if last_rows.max() >= len(weights):
        raise ValueError(f"contexts must lead to the {len(weights)} rows of weights; got row {last_rows.max()}")
