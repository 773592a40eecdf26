"""What a file of codes says about the model that made them."""

from collections.abc import Mapping

from codec.bitstream import MAX_CODED_CODES_PER_CHUNK, MAX_CODES_PER_CHUNK, Header, clean_tags
from codec.model.codec import Codec

# Damage costs at least a chunk, and each has some bytes of its own.
CHUNK_SECONDS = 2.0


def frames_per_chunk(
    codec: Codec, num_quantizers: int, channels: int = 1, max_codes: int = MAX_CODED_CODES_PER_CHUNK
) -> int:
    """Frames in each chunk of a file but the last: `CHUNK_SECONDS`, if a chunk can hold so many codes."""
    return max(1, min(round(CHUNK_SECONDS * codec.frame_rate), max_codes // (channels * num_quantizers)))


def make_header(
    codec: Codec,
    num_quantizers: int,
    *,
    sample_rate: int,
    channels: int = 1,
    length: int | None = None,
    num_frames: int | None = None,
    tags: Mapping[str, str] | None = None,
    entropy: bool | None = None,
    fingerprint: str | None = None,
) -> Header:
    """The header of a file of a codec's codes.

    Args:
        codec: Whose codes they are.
        num_quantizers: Stages of them.
        sample_rate: Of the original audio, Hz.
        channels: Of the original audio.
        length: Samples of each channel; None: not known yet.
        num_frames: Frames of each channel; None: not known yet.
        tags: Title, artist and others; what a file cannot hold is left out.
        entropy: Whether the codes are coded with the model's tables. Default: if it has some, and a frame has no more
            codes than an entropy-coded chunk can hold.
        fingerprint: Of the codec, where it is known: to compute it takes as long as to encode some seconds.

    Raises:
        ValueError: `entropy` asks for tables that the model lacks, or a number is out of range.
    """
    if entropy and codec.entropy is None:
        raise ValueError(
            f"entropy must be off, since the model {codec.name} has no tables; codec train-entropy makes them"
        )
    if entropy is None:
        entropy = channels * num_quantizers <= MAX_CODED_CODES_PER_CHUNK
    tables = codec.entropy if entropy else None
    max_codes = MAX_CODES_PER_CHUNK if tables is None else MAX_CODED_CODES_PER_CHUNK
    return Header(
        model=codec.name,
        fingerprint=fingerprint or codec.fingerprint(),
        sample_rate=sample_rate,
        channels=channels,
        length=length,
        num_quantizers=num_quantizers,
        bits=codec.bits_per_code,
        num_frames=num_frames,
        frames_per_chunk=frames_per_chunk(codec, num_quantizers, channels, max_codes),
        model_rate=codec.sample_rate,
        hop_length=codec.hop_length,
        tags=clean_tags(tags or {}),
        entropy=None if tables is None else tables.fingerprint,
    )
