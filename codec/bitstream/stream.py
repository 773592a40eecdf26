"""What a file of codes says, whatever its version."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.packing import MAX_BITS

FRAMES_PER_CHUNK = 500
MAX_NAME_BYTES = 255

# The upper ends are what the fields of a file can hold, except for the sample rate: whoever decodes a file takes
# memory in proportion to it, and no audio needs more.
RANGES = {
    "sample_rate": (1, 1_000_000),
    "channels": (1, (1 << 16) - 1),
    "length": (1, (1 << 64) - 1),
    "num_quantizers": (1, (1 << 16) - 1),
    "bits": (1, MAX_BITS),
    "num_frames": (1, (1 << 64) - 1),
    "frames_per_chunk": (1, (1 << 32) - 1),
}


@dataclass(frozen=True)
class Header:
    """What it takes to decode a stream of codes.

    Attributes:
        model: Name of the model that made the codes: printable, at most 255 bytes of UTF-8.
        fingerprint: Fingerprint of the model's weights, 16 lowercase hexadecimal digits.
        sample_rate: Rate of the original audio in Hz.
        channels: Channels of the original audio, each coded on its own.
        length: Samples per channel of the original audio.
        num_quantizers: Stages per frame.
        bits: Bits per code.
        num_frames: Frames per channel.
        frames_per_chunk: Frames per channel in every chunk but the last.

    Raises:
        ValueError: A field is out of range.
    """

    model: str
    fingerprint: str
    sample_rate: int
    channels: int
    length: int
    num_quantizers: int
    bits: int
    num_frames: int
    frames_per_chunk: int = FRAMES_PER_CHUNK

    def __post_init__(self) -> None:
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(f"{field} must be {low} to {high}; got {value}")
        # Control characters in a name from anyone's file would reach the terminal.
        if not (self.model and self.model.isprintable() and len(self.model.encode()) <= MAX_NAME_BYTES):
            raise ValueError(f"model must be printable, of 1 to {MAX_NAME_BYTES} bytes; got {self.model!r}")
        if not re.fullmatch("[0-9a-f]{16}", self.fingerprint):
            raise ValueError(f"fingerprint must be 16 lowercase hexadecimal digits; got {self.fingerprint!r}")

    @property
    def duration(self) -> float:
        """Length of the original audio in seconds."""
        return self.length / self.sample_rate


@dataclass(frozen=True, eq=False)
class Stream:
    """Codes and what they belong to.

    Attributes:
        header: Its counts are the shape of `codes`.
        codes: Integers in [0, 2 ** bits), [channels, num_quantizers, num_frames]; int64 when read from a file.

    Raises:
        ValueError: `codes` has another shape than `header` says.
    """

    header: Header
    codes: NDArray[np.integer]

    def __post_init__(self) -> None:
        shape = (self.header.channels, self.header.num_quantizers, self.header.num_frames)
        if self.codes.shape != shape:
            raise ValueError(f"codes must have the shape {shape} that the header says; got {self.codes.shape}")
