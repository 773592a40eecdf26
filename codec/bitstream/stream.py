"""What a file of codes says, whatever its version."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.packing import MAX_BITS, ChunkCoder
from codec.bitstream.tags import SAFE, check_tags, is_safe

# What every version starts with.
MAGIC = b"RVQC"
MAX_NAME_BYTES = 255
# Whoever reads or writes a chunk takes memory in proportion to its codes.
MAX_CODES_PER_CHUNK = 1 << 20
# Entropy-coded, they may stand in no more than some bytes, so that time is not in proportion to these.
MAX_CODED_CODES_PER_CHUNK = 1 << 16

# The upper ends are about what the fields of a file can hold, except for the sample rates: whoever decodes a file takes
# memory in proportion to them, and no audio needs more.
RANGES = {
    "sample_rate": (1, 1_000_000),
    "channels": (1, (1 << 16) - 1),
    "length": (1, (1 << 63) - 1),
    "num_quantizers": (1, (1 << 16) - 1),
    "bits": (1, MAX_BITS),
    "num_frames": (1, (1 << 63) - 1),
    "frames_per_chunk": (1, (1 << 32) - 1),
    "model_rate": (1, 1_000_000),
    "hop_length": (1, (1 << 32) - 1),
}
OPTIONAL = {"length", "num_frames", "model_rate", "hop_length"}


@dataclass(frozen=True)
class Header:
    """What it takes to decode a stream of codes.

    Attributes:
        model: Name of the model that made the codes: 1 to 255 bytes of UTF-8 without control characters.
        fingerprint: Fingerprint of the model's weights, 16 lowercase hexadecimal digits.
        sample_rate: Rate of the original audio in Hz.
        channels: Channels of the original audio, each coded on its own.
        length: Samples per channel of the original audio. None: not known yet, of a live stream.
        num_quantizers: Stages per frame.
        bits: Bits per code.
        num_frames: Frames per channel. None: not known yet.
        frames_per_chunk: Frames per channel in every chunk but the last; all codes of a chunk are at most 2 ** 20,
            or 2 ** 16 if they are entropy-coded.
        model_rate: Rate of the model in Hz. None in files of version 1, which do not say it.
        hop_length: Samples of the model per frame. None in files of version 1.
        tags: Texts by name, such as the title: see `check_tags` for what they may hold. None in files of version 1.
        entropy: Fingerprint of the tables that the codes are entropy-coded with, 16 lowercase hexadecimal digits.
            None: the codes are packed.

    Raises:
        ValueError: A field is out of range.
    """

    model: str
    fingerprint: str
    sample_rate: int
    channels: int
    length: int | None
    num_quantizers: int
    bits: int
    num_frames: int | None
    frames_per_chunk: int
    model_rate: int | None = None
    hop_length: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    entropy: str | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (value is None and name in OPTIONAL) and not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}; got {value}")
        if not self.model or not is_safe(self.model, MAX_NAME_BYTES):
            raise ValueError(f"model must be of 1 to {MAX_NAME_BYTES} {SAFE}; got {self.model!a}")
        for name in ("fingerprint", "entropy"):
            value = getattr(self, name)
            if not (value is None and name == "entropy") and not re.fullmatch("[0-9a-f]{16}", value):
                raise ValueError(f"{name} must be 16 lowercase hexadecimal digits; got {value!r}")
        most = MAX_CODES_PER_CHUNK if self.entropy is None else MAX_CODED_CODES_PER_CHUNK
        if (count := self.codes_in(self.longest_chunk)) > most:
            raise ValueError(f"a chunk must have at most {most} codes; got {count}")
        check_tags(self.tags)

    @property
    def duration(self) -> float | None:
        """Length of the original audio in seconds; None if that is not known yet."""
        return None if self.length is None else self.length / self.sample_rate

    @property
    def frame_rate(self) -> float | None:
        """Frames per second; None in files of version 1, which do not say it."""
        return None if self.model_rate is None or self.hop_length is None else self.model_rate / self.hop_length

    @property
    def longest_chunk(self) -> int:
        """Frames of the longest chunk that there can be."""
        return self.frames_in(0)

    @property
    def num_chunks(self) -> int | None:
        """Chunks of the whole stream; None if its length is not known yet."""
        return None if self.num_frames is None else -(-self.num_frames // self.frames_per_chunk)

    def frames_in(self, number: int) -> int:
        """Frames that a chunk has; in a stream of unknown length, that it has at most. 0 after the last one."""
        if self.num_frames is None:
            return self.frames_per_chunk
        return max(0, min(self.frames_per_chunk, self.num_frames - number * self.frames_per_chunk))

    def codes_in(self, frames: int) -> int:
        """Codes that some frames have, of all stages and channels."""
        return frames * self.num_quantizers * self.channels


def check_fit(coder: ChunkCoder, header: Header) -> None:
    """Check that a coder can have made the codes that a header tells of, as far as it says what it can make.

    Args:
        coder: May have the attributes `codebook_size` and `num_quantizers`, as `EntropyTables` has.
        header: Of the codes.

    Raises:
        ValueError: Its codes need more bits, or it has fewer stages.
    """
    size, stages = getattr(coder, "codebook_size", 0), getattr(coder, "num_quantizers", header.num_quantizers)
    if size > 1 << header.bits:
        raise ValueError(f"bits must be enough for the {size} codes of the entropy tables; got {header.bits}")
    if header.num_quantizers > stages:
        raise ValueError(
            f"num_quantizers must be at most {stages} as in the entropy tables; got {header.num_quantizers}"
        )


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


@dataclass(frozen=True, eq=False)
class Chunk:
    """A stretch of a file of codes, as it is read.

    Attributes:
        first_frame: Its place in the stream.
        num_frames: Its length.
        codes: [channels, num_quantizers, num_frames], int64. None: these frames are lost.
        problem: What was wrong, where codes is None.
    """

    first_frame: int
    num_frames: int
    codes: NDArray[np.int64] | None
    problem: str | None = None
