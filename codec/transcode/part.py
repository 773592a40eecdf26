"""Which part of a file is decoded: the frames that it takes, and the samples of them that are wanted."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec.audio import AudioSink, resampling_margin
from codec.bitstream import Chunk
from codec.model import Codec


@dataclass(frozen=True)
class Part:
    """A part of the audio, and the frames that it takes.

    Decoding begins as much earlier as decoder and resampler remember, so the samples are those of the whole.

    Attributes:
        first: The first sample wanted, counted from the beginning of the file, at the rate of the output.
        length: How many are wanted; None: all that there are.
        first_frame: Where decoding begins.
        last_frame: Where it ends; None: at the end of the file.
        skipped: Samples of the output from the beginning of `first_frame` to `first`.
    """

    first: int
    length: int | None
    first_frame: int
    last_frame: int | None
    skipped: int


def find_part(codec: Codec, sample_rate: int, start: float, duration: float | None, total: int | None) -> Part:
    """The part from `start` on.

    Args:
        codec: What decodes.
        sample_rate: Of the output, Hz.
        start: Seconds from the beginning.
        duration: Seconds; None: to the end.
        total: Samples of the whole at the rate of the output; None: not known.

    Raises:
        ValueError: `start` is not in the audio, or `duration` is not positive.
    """
    if not 0 <= start < math.inf:
        raise ValueError(f"start must not be negative; got {start}")
    if duration is not None and not 0 < duration < math.inf:
        raise ValueError(f"duration must be positive; got {duration}")
    first = round(start * sample_rate)
    if total is not None and first >= total:
        raise ValueError(f"start must be before the end of the audio, at {total / sample_rate:.3f} s; got {start}")
    length = None if duration is None else max(1, round(duration * sample_rate))
    if total is not None:
        length = total - first if length is None else min(length, total - first)

    hop_length, margin = codec.hop_length, resampling_margin(codec.sample_rate, sample_rate)
    first_frame = (first * codec.sample_rate // sample_rate - margin) // hop_length - codec.pre_roll
    # A resampler can only begin where a sample of the model and one of the output lie at the same time.
    step = codec.sample_rate // math.gcd(codec.sample_rate, sample_rate)
    step //= math.gcd(step, hop_length)
    first_frame = max(0, first_frame) // step * step
    last_frame = None
    if duration is not None and length is not None:
        last_sample = -(-(first + length) * codec.sample_rate // sample_rate) + margin
        last_frame = -(-last_sample // hop_length)
    return Part(
        first, length, first_frame, last_frame, first - first_frame * hop_length * sample_rate // codec.sample_rate
    )


def cut_chunks(chunks: Iterable[Chunk], part: Part) -> Iterator[Chunk]:
    """Leave out frames that the part does not take; no chunk after them is asked for."""
    for chunk in chunks:
        end = chunk.first_frame + chunk.num_frames
        low = max(chunk.first_frame, part.first_frame)
        high = end if part.last_frame is None else min(end, part.last_frame)
        if low < high:
            kept = slice(low - chunk.first_frame, high - chunk.first_frame)
            yield Chunk(low, high - low, None if chunk.codes is None else chunk.codes[..., kept], chunk.problem)
        if part.last_frame is not None and end >= part.last_frame:
            return


def join_chunks(chunks: Iterable[Chunk], num_frames: int) -> Iterator[Chunk]:
    """Make one of chunks that follow each other, of at least `num_frames` frames where there are so many."""
    waiting: list[Chunk] = []
    for chunk in chunks:
        if waiting and chunk.codes is None:
            yield _join(waiting)
            waiting = []
        waiting.append(chunk)
        if chunk.codes is None or sum(each.num_frames for each in waiting) >= num_frames:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _join(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    codes = np.concatenate([chunk.codes for chunk in chunks if chunk.codes is not None], axis=-1)
    return Chunk(chunks[0].first_frame, codes.shape[-1], codes, None)


class PartSink:
    """Passes on the samples of a part.

    Args:
        sink: Where to.
        part: Which.
        held: Samples to hold back while it is not known where the audio ends, which may be before its last frame does.
        progress: Is told how many samples were passed on.

    Attributes:
        written: Samples that were passed on.
    """

    def __init__(self, sink: AudioSink, part: Part, held: int, progress: Callable[[int], object]):
        self.written = 0
        self._sink = sink
        self._part = part
        self._to_skip = part.skipped
        self._held = 0 if part.length is not None else held
        self._waiting: Tensor | None = None
        self._progress = progress

    def write(self, waveform: Tensor) -> None:
        """Take the samples that follow those before, [channels, time]."""
        skipped = min(self._to_skip, waveform.shape[-1])
        self._to_skip -= skipped
        waveform = waveform[:, skipped:]
        if self._waiting is not None:
            waveform = torch.cat([self._waiting, waveform], dim=-1)
        ready = max(0, waveform.shape[-1] - self._held)
        self._waiting = waveform[:, ready:]
        self._pass_on(waveform[:, :ready], self._part.length)

    def finish(self, total: int | None) -> None:
        """Pass on what was held back, as far as the audio goes: `total` samples in all, if that is known."""
        if self._waiting is not None:
            length = self._part.length
            if length is None and total is not None:
                length = total - self._part.first
            self._pass_on(self._waiting, length)

    def _pass_on(self, waveform: Tensor, length: int | None) -> None:
        if length is not None:
            waveform = waveform[:, : max(0, length - self.written)]
        if waveform.shape[-1]:
            self._sink.write(waveform)
            self.written += waveform.shape[-1]
            self._progress(waveform.shape[-1])
