"""File of codes -> audio."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

import torch

from codec.audio import AudioSink, Resampler, resampled_length
from codec.bitstream import Chunk, Header, StreamReader
from codec.model import Codec
from codec.transcode.conceal import Decoder
from codec.transcode.part import PartSink, cut_chunks, find_part, join_chunks

# Frames of all channels that are decoded at a time where more than one chunk is there: 2 s alone leave speed unused.
BLOCK_FRAMES = 400

Progress = Callable[[float], object]
OpenOutput = Callable[[int, int, int | None], AbstractContextManager[AudioSink]]


class Lost(NamedTuple):
    """A stretch of audio that could not be decoded, and was replaced.

    Attributes:
        start: Seconds from the beginning of the file.
        end: Seconds from the beginning of the file.
        problem: What was wrong.
    """

    start: float
    end: float
    problem: str


@dataclass(frozen=True)
class Decoded:
    """What was decoded.

    Attributes:
        seconds: Of audio.
        lost: Stretches of it that were replaced, in order; empty unless damage was to be concealed.
        problems: What else was damaged, at no cost to the audio.
    """

    seconds: float
    lost: list[Lost]
    problems: list[str]


def check_model(header: Header, codec: Codec, fingerprint: str | None = None) -> None:
    """Check that a file can be decoded with a model.

    Args:
        header: Of the file.
        codec: The model.
        fingerprint: Of the model, where it is known already.

    Raises:
        ValueError: The codes are of another model, or not what the header says.
    """
    fingerprint = fingerprint or codec.fingerprint()
    if header.fingerprint != fingerprint:
        raise ValueError(
            f"model must be the one that encoded the file, {header.model} ({header.fingerprint}); "
            f"got {codec.name} ({fingerprint})"
        )
    if header.entropy is not None:
        codec.tables_of(header.entropy)
    for name, stated, own in (
        ("model_rate", header.model_rate, codec.sample_rate),
        ("hop_length", header.hop_length, codec.hop_length),
        ("bits", header.bits, codec.bits_per_code),
    ):
        if stated not in (None, own):
            raise ValueError(f"{name} must be {own}, as the model {codec.name} has; got {stated}")
    if header.num_quantizers > codec.num_quantizers:
        raise ValueError(
            f"stages must be at most {codec.num_quantizers}, as the model {codec.name} has; got {header.num_quantizers}"
        )
    if header.length is not None and header.num_frames is not None:
        length = resampled_length(header.length, header.sample_rate, codec.sample_rate)
        if header.num_frames != codec.num_frames(length):
            raise ValueError(
                f"{header.length} samples must be {codec.num_frames(length)} frames; got {header.num_frames}"
            )


def decode_file(
    codec: Codec,
    file: BinaryIO,
    open_output: OpenOutput,
    *,
    start: float = 0.0,
    duration: float | None = None,
    conceal: bool = False,
    sample_rate: int | None = None,
    progress: Progress | None = None,
    fingerprint: str | None = None,
) -> Decoded:
    """Decode a file, or a part of it, of which no more is read and decoded than it takes.

    Args:
        codec: In eval mode.
        file: Open for reading; a pipe will do, if the part begins not far from its start.
        open_output: Called once with sample rate, channels, and the length in samples, if that is known beforehand.
        start: Seconds from the beginning.
        duration: Seconds. Default: to the end.
        conceal: Replace what is damaged by a continuation of what is before it that fades out, rather than to fail.
        sample_rate: Of the output, Hz. Default: that of the original.
        progress: Is told how many further seconds of audio are decoded.
        fingerprint: Of the codec, where it is known already.

    Raises:
        BitstreamError: The file is damaged, and that is not to be concealed, or its header cannot be read.
        ValueError: The model is another one; or `start` is not in the file, or `duration` not positive.
        AudioFileError: The output cannot be written.
    """
    reader = StreamReader(file, conceal=conceal)
    # Of a live stream that is over, the end says how long it is.
    header = replace(reader.header, length=reader.length, num_frames=reader.num_frames)
    check_model(header, codec, fingerprint)
    if header.entropy is not None:
        reader.use(codec.tables_of(header.entropy))
    rate = sample_rate or header.sample_rate
    part = find_part(codec, rate, start, duration, _length_at(rate, header, header.length))
    lost = []

    def tell(samples: int) -> None:
        if progress is not None:
            progress(samples / rate)

    with (
        torch.inference_mode(),
        # First the output, which refuses channels that no file has, before they take memory.
        open_output(rate, header.channels, part.length) as sink,
        codec.streaming(header.channels),
    ):
        decoder = Decoder(codec)
        resampler = Resampler(header.channels, codec.sample_rate, rate)
        output = PartSink(sink, part, -(-codec.hop_length * rate // codec.sample_rate), tell)
        # What comes in real time is not to wait for more.
        block_frames = max(1, BLOCK_FRAMES // header.channels) if reader.seekable else 1
        for chunk in join_chunks(cut_chunks(reader.chunks(part.first_frame), part), block_frames):
            if chunk.codes is None:
                lost.append(_lost(chunk, codec))
                for waveform in decoder.conceal(header.channels, chunk.num_frames):
                    output.write(resampler.push(waveform))
            else:
                output.write(resampler.push(decoder.decode(chunk.codes)))
        output.write(resampler.flush())
        output.finish(_length_at(rate, header, reader.length))
        if not output.written:
            raise ValueError(f"start must be before the end of the audio; got {start}")
    return Decoded(output.written / rate, lost, reader.problems)


def _length_at(sample_rate: int, header: Header, length: int | None) -> int | None:
    return None if length is None else resampled_length(length, header.sample_rate, sample_rate)


def _lost(chunk: Chunk, codec: Codec) -> Lost:
    end = chunk.first_frame + chunk.num_frames
    return Lost(chunk.first_frame / codec.frame_rate, end / codec.frame_rate, chunk.problem or "damaged")
