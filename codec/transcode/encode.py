"""Audio -> file of codes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import torch
from einops import rearrange
from torch import Tensor

from codec.audio import AudioSource, Resampler
from codec.bitstream import StreamWriter
from codec.model import Codec
from codec.model.header import make_header

# What is encoded at a time, of all channels: more is hardly faster, and takes memory in proportion.
BLOCK_SECONDS = 10.0
# Of audio that is still going on. A chunk waits for the end of such a block; each costs some milliseconds.
LIVE_BLOCK_SECONDS = 0.1

Progress = Callable[[float], object]


@dataclass(frozen=True)
class Encoded:
    """What was encoded.

    Attributes:
        seconds: Of audio.
        num_bytes: Of the file, as far as they were written here.
        warning: What is odd about the source, if anything is.
    """

    seconds: float
    num_bytes: int
    warning: str | None


def encode_source(
    codec: Codec,
    source: AudioSource,
    file: BinaryIO,
    *,
    num_quantizers: int | None = None,
    beam_size: int | None = None,
    entropy: bool | None = None,
    progress: Progress | None = None,
    fingerprint: str | None = None,
) -> Encoded:
    """Encode every channel as a mono signal of its own, and write each chunk as soon as it is whole.

    Args:
        codec: In eval mode.
        source: Of any sample rate; read to its end.
        file: Open for writing; a pipe will do. Where it can seek, its header says in the end how long the audio is.
        num_quantizers: How many first stages. Default: all.
        beam_size: As in `Codec.encode`.
        entropy: Whether to code the codes by their probabilities, which takes the model's tables. Default: if it has
            them.
        progress: Is told how many further seconds of audio are encoded.
        fingerprint: Of the codec, where it is known already.

    Raises:
        ValueError: The model has not so many stages, or no tables.
        AudioFileError: The source is damaged, or empty.
        OSError: The file cannot be written.
    """
    stages = codec.num_quantizers if num_quantizers is None else num_quantizers
    header = make_header(
        codec,
        stages,
        sample_rate=source.sample_rate,
        channels=source.channels,
        tags=source.tags,
        entropy=entropy,
        fingerprint=fingerprint,
    )
    resampler = Resampler(source.channels, source.sample_rate, codec.sample_rate)
    length = 0

    # Packed, every code takes the same bits.
    rate_weight = codec.rate_weight if header.entropy else 0.0

    def encode(waveform: Tensor) -> None:
        on_device = rearrange(waveform, "c t -> c 1 t").to(codec.device)
        codes = codec.encode(on_device, stages, beam_size=beam_size, rate_weight=rate_weight)
        writer.write(codes.cpu().numpy())

    with torch.inference_mode(), codec.streaming(source.channels):
        writer = StreamWriter(file, header, None if header.entropy is None else codec.entropy)
        for block in _blocks(source):
            encode(resampler.push(block))
            length += block.shape[1]
            if progress is not None:
                progress(block.shape[1] / source.sample_rate)
        encode(resampler.flush())
        writer.write(codec.flush().cpu().numpy())
        writer.close(length)
    return Encoded(length / source.sample_rate, writer.num_bytes, source.warning)


def _blocks(source: AudioSource) -> Iterator[Tensor]:
    """All of the audio; what arrives by the packet is collected, and the last block holds the rest of it."""
    shortest = round(LIVE_BLOCK_SECONDS * source.sample_rate) if source.live else 1
    waiting: list[Tensor] = []
    for block in source.blocks(math.ceil(BLOCK_SECONDS * source.sample_rate / source.channels)):
        waiting.append(block)
        if sum(each.shape[1] for each in waiting) >= shortest:
            yield torch.cat(waiting, dim=1)
            waiting = []
    if waiting:
        yield torch.cat(waiting, dim=1)
