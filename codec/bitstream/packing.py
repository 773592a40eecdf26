"""Integers packed to their exact number of bits.

The order is little-endian throughout. With `bits` bits a value, bit j of value i (bit 0 weighs 1) is bit
n = i * bits + j of the stream, which is the bit of weight 2 ** (n % 8) in byte n // 8. What the last byte has left
over is zero. The values 1, 2, 7 of 3 bits each, for example, are the bytes 0b11_010_001, 0b0000000_1.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_BITS = 32


class ChunkCoder(Protocol):
    """A way to turn the codes of a chunk to bytes, and back.

    Attributes:
        fingerprint: Of what a reader needs to have, 16 hexadecimal digits; None if it needs nothing.
    """

    @property
    def fingerprint(self) -> str | None: ...

    def encode(self, codes: NDArray[np.integer]) -> bytes:
        """Bytes of codes, [channels, num_quantizers, frames].

        Raises:
            ValueError: A code is out of range.
        """
        ...

    def decode(self, payload: bytes, channels: int, num_quantizers: int, frames: int) -> NDArray[np.int64]:
        """Codes of bytes, [channels, num_quantizers, frames].

        Raises:
            ValueError: `encode` does not return such bytes.
        """
        ...


@dataclass(frozen=True)
class Packed:
    """Codes packed to their exact number of bits, frame by frame: [frames, channels, num_quantizers].

    Attributes:
        bits: Of every code, 1 to 32.
    """

    bits: int

    @property
    def fingerprint(self) -> None:
        """A reader needs nothing but the header."""
        return None

    def encode(self, codes: NDArray[np.integer]) -> bytes:
        """Pack codes, [channels, num_quantizers, frames]; see `pack`."""
        return pack(codes.transpose(2, 0, 1), self.bits)

    def decode(self, payload: bytes, channels: int, num_quantizers: int, frames: int) -> NDArray[np.int64]:
        """Undo `encode`; see `unpack`."""
        codes = unpack(payload, self.bits, frames * channels * num_quantizers)
        return codes.reshape(frames, channels, num_quantizers).transpose(1, 2, 0)


def packed_size(bits: int, count: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return -(-bits * count // 8)


def pack(values: ArrayLike, bits: int) -> bytes:
    """Pack integers, `bits` bits each.

    Args:
        values: Integers in [0, 2 ** bits), of any shape; their order is that of the flattened array.
        bits: 1 to 32.

    Raises:
        ValueError: `bits` or a value is out of range, or the values are not integers.
    """
    _check_bits(bits)
    flat = np.asarray(values).reshape(-1)
    if flat.size == 0:
        return b""
    if flat.dtype.kind not in "iu":
        raise ValueError(f"values must be integers; got {flat.dtype}")
    if flat.min() < 0 or flat.max() >= 1 << bits:
        raise ValueError(f"values of {bits} bits must be 0 to {(1 << bits) - 1}; got {flat.min()} to {flat.max()}")
    as_bytes = flat.astype("<u4").view(np.uint8).reshape(-1, 4)
    as_bits = np.unpackbits(as_bytes, axis=1, count=bits, bitorder="little")
    return np.packbits(as_bits, bitorder="little").tobytes()


def unpack(data: bytes | memoryview, bits: int, count: int) -> NDArray[np.int64]:
    """Undo `pack`.

    Args:
        data: Exactly the bytes that `pack` returned.
        bits: 1 to 32.
        count: Number of values.

    Returns:
        Integers in [0, 2 ** bits), [count].

    Raises:
        ValueError: `bits` is out of range, `data` has another length, or a bit after the last value is not zero.
    """
    _check_bits(bits)
    if len(data) != packed_size(bits, count):
        raise ValueError(
            f"{count} values of {bits} bits must be {packed_size(bits, count)} bytes; got {len(data)} bytes"
        )
    as_bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
    if as_bits[bits * count :].any():
        raise ValueError("the bits after the last value must be zero; got ones")
    as_bytes = np.zeros((count, 4), dtype=np.uint8)
    packed = np.packbits(as_bits[: bits * count].reshape(count, bits), axis=1, bitorder="little")
    as_bytes[:, : packed.shape[1]] = packed
    return as_bytes.view("<u4").reshape(-1).astype(np.int64)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be 1 to {MAX_BITS}; got {bits}")
