"""What a shard says of each clip, and of the codec whose codes it holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.settings import settings_from

# Of the Parquet files, the token files, the records and the manifest together.
FORMAT_VERSION = 1
# A code has 16 bits on disk.
MAX_CODEBOOK_SIZE = 1 << 16

_PREFIX = "codec."


class Row(NamedTuple):
    """One clip.

    Attributes:
        id: Unique in the corpus.
        source: Where it came from, for people.
        codes: [num_quantizers, frames], uint16.
        duration: Of the original, in seconds.
        speaker: None if unknown.
        transcript: None if unknown.
    """

    id: str
    source: str
    codes: NDArray[np.uint16]
    duration: float
    speaker: str | None = None
    transcript: str | None = None


@dataclass(frozen=True)
class CodecFacts:
    """The codec whose codes a shard holds; kept in the metadata of its schema.

    Attributes:
        model: Name, for people.
        fingerprint: Of the weights.
        sample_rate: Of the audio that the codec takes, Hz.
        frame_rate: Frames per second.
        codebook_size: Codes of a stage, at most 65,536.
        num_quantizers: Stages that were kept.
        beam_size: Of the search for the codes.

    Raises:
        ValueError: A number is out of range.
    """

    model: str
    fingerprint: str
    sample_rate: int
    frame_rate: float
    codebook_size: int
    num_quantizers: int
    beam_size: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.codebook_size <= MAX_CODEBOOK_SIZE:
            raise ValueError(f"codebook_size must be from 1 to {MAX_CODEBOOK_SIZE}; got {self.codebook_size}")
        for name in ("sample_rate", "frame_rate", "num_quantizers"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")

    @property
    def bitrate(self) -> float:
        """Of codes packed to their exact bits, bit/s."""
        return self.frame_rate * self.num_quantizers * (self.codebook_size - 1).bit_length()

    def to_metadata(self) -> dict[str, str]:
        """As it stands in the metadata of a schema."""
        facts = {f"{_PREFIX}{name}": str(value) for name, value in asdict(self).items()}
        return {f"{_PREFIX}format_version": str(FORMAT_VERSION), **facts}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "CodecFacts":
        """The opposite of `to_metadata`.

        Raises:
            ValueError: An entry is lacking or malformed, or the format is of another version.
        """
        table = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
        check_version(table.pop("format_version", None))
        kinds = {field.name: field.type for field in fields(cls)}
        return settings_from({name: _parse(value, kinds.get(name)) for name, value in table.items()}, cls, _PREFIX)


def check_version(version: str | int | None) -> None:
    """Refuse what another version of the format wrote.

    Raises:
        ValueError: It is another.
    """
    if str(version) != str(FORMAT_VERSION):
        raise ValueError(f"format_version must be {FORMAT_VERSION}; got {version}")


def _parse(value: str, kind: object) -> str | int | float:
    for number in (int, float):
        if kind is number:
            try:
                return number(value)
            except ValueError:
                # As it is: `settings_from` says of which entry.
                break
    return value
