"""One shard of a corpus: recordings -> codes, in batches of about the same length."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from codec.audio import AudioFileError, AudioSource, Resampler, resample
from codec.corpora.recording import Recording
from codec.model import Codec
from codec.shards.job import codec_facts, load_job, recordings_of
from codec.shards.record import BadClip, ShardRecord, forget_shard, is_finished, load_record
from codec.shards.schema import Row
from codec.shards.write import write_shard

# A recording of which more than such a part is lacking is bad: what is there would pass for all that was said. What
# lossy formats say of their length may be off by less.
MAX_LACKING = 0.1

# What passes, or can be put right, and says nothing of the recording that was read.
PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # what lies inside of a larger file is copied into a temporary one
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}

Codes = NDArray[np.uint16]
Result = TypeVar("Result")


class _Waveform(NamedTuple):
    """A recording in memory: mono, [time], at the rate of the codec; and how long it was in the file, in seconds."""

    samples: Tensor
    duration: float


class _Bad(NamedTuple):
    """What is wrong with a recording; and whether it is the system that says so, which could not open or read it."""

    problem: str
    from_system: bool = False


class _Encoded(NamedTuple):
    """Codes of a recording, [num_quantizers, frames]; and how long it was in the file, in seconds."""

    codes: Codes
    duration: float


def make_shard(
    folder: Path,
    index: int,
    codec: Codec,
    progress: Callable[[int], object] | None = None,
    *,
    accept_missing: bool = False,
) -> ShardRecord:
    """Encode the recordings of a shard, and write all of its files, unless it is finished already.

    The channels of a recording are averaged. One that cannot be read, or of which much is lacking, is among the errors
    of the record. But where a disk is full or does not answer, or not one recording is there, it is not the recordings
    that are bad, and there is no shard.

    The files are the same to the last bit whichever process makes them on the same kind of machine: with one thread, in
    full precision, in batches of this shard alone.

    Args:
        folder: In which `start_job` began the job.
        index: Of the shard, from 0.
        codec: That of the job, in eval mode, on any device.
        progress: Is told how many further recordings are done.
        accept_missing: Make the shard even if the system can open none of its recordings: they are gone for good.

    Returns:
        The record of the shard, which is on disk.

    Raises:
        ValueError: The codec has other weights than that of the job, or searches otherwise; or the plan is not that of
            the job any more.
        OSError: The files cannot be written, or the recordings not be read, and that may pass.
    """
    if is_finished(folder, index):
        return load_record(folder, index)
    # One that lacks files, or parts of them: it must not seem finished while they are replaced.
    forget_shard(folder, index)
    job = load_job(folder)
    facts = codec_facts(codec, job.codec.num_quantizers)
    if facts.fingerprint != job.codec.fingerprint:
        raise ValueError(
            f"codec must have the weights {job.codec.fingerprint} of the job in {folder}; got {facts.fingerprint}"
        )
    if facts.beam_size != job.codec.beam_size:
        raise ValueError(
            f"codec must have the beam_size {job.codec.beam_size} of the job in {folder}; got {facts.beam_size}"
        )
    recordings = recordings_of(folder, index)
    rows: dict[int, Row] = {}
    errors: dict[int, BadClip] = {}
    missing = 0
    with _one_thread(), _full_precision(), torch.inference_mode():
        for number, made in _encode_all(codec, job.codec.num_quantizers, recordings, job.batch_seconds):
            recording = recordings[number]
            if isinstance(made, _Bad):
                errors[number] = BadClip(recording.id, recording.source, made.problem)
                missing += made.from_system
            else:
                known = made.duration, recording.speaker, recording.transcript
                rows[number] = Row(recording.id, recording.source, made.codes, *known)
            if progress is not None:
                progress(1)
    if missing == len(recordings) and not accept_missing:
        raise OSError(
            f"none of its {missing} recordings can be read, the first of them {errors[0].source}: {errors[0].problem}; "
            f"if they are gone for good, --accept-missing lists them as bad"
        )
    return write_shard(folder, index, _in_order(rows), _in_order(errors), job.codec, job.tokenizer())


def _in_order(made: Mapping[int, Result]) -> list[Result]:
    return [made[number] for number in sorted(made)]


def length_batches(seconds: Mapping[int, float], limit: float) -> Iterator[list[int]]:
    """Put what is about equally long together, the shortest first.

    Args:
        seconds: How long each is.
        limit: On the seconds of a batch, padding counted; what is longer comes alone.
    """
    batch: list[int] = []
    for number in sorted(seconds, key=lambda number: (seconds[number], number)):
        if batch and (len(batch) + 1) * seconds[number] > limit:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _encode_all(
    codec: Codec, stages: int, recordings: Sequence[Recording], batch_seconds: float
) -> Iterator[tuple[int, _Encoded | _Bad]]:
    """Each recording by its number, in any order."""
    seconds: dict[int, float] = {}
    for number, recording in enumerate(recordings):
        length = _attempt(recording, _stated_seconds)
        if isinstance(length, _Bad):
            yield number, length
        elif length is None or length > batch_seconds:
            yield number, _attempt(recording, lambda source: _stream(codec, stages, source, batch_seconds))
        else:
            seconds[number] = length
    for batch in length_batches(seconds, batch_seconds):
        read = {number: _attempt(recordings[number], lambda source: _read(codec, source)) for number in batch}
        yield from ((number, problem) for number, problem in read.items() if isinstance(problem, _Bad))
        waveforms = {number: waveform for number, waveform in read.items() if not isinstance(waveform, _Bad)}
        yield from zip(waveforms, _encode(codec, stages, list(waveforms.values())), strict=True)


def _attempt(recording: Recording, work: Callable[[AudioSource], Result]) -> Result | _Bad:
    """What is made of a recording, or what is wrong with it.

    Raises:
        OSError: What is wrong may pass.
    """
    try:
        with recording.open() as source:
            return work(source)
    except (AudioFileError, ValueError) as error:
        cause = _system_error(error)
        if cause is not None and cause.errno in PASSING:
            raise OSError(cause.errno, os.strerror(cause.errno), recording.source) from error
        problem = " ".join(str(error).removeprefix(f"{recording.source}: ").splitlines())
        return _Bad(problem, from_system=cause is not None)


def _system_error(error: BaseException | None) -> OSError | None:
    """The error of the system that another one was made of. Arrow's, of damaged data, have no number."""
    while error is not None:
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, FileNotFoundError)):
            return error
        error = error.__cause__
    return None


def _stated_seconds(source: AudioSource) -> float | None:
    return None if source.stated_length is None else source.stated_length / source.sample_rate


def _read(codec: Codec, source: AudioSource) -> _Waveform:
    waveform = source.read_all()
    _check_whole(source, waveform.shape[1])
    mono = reduce(waveform, "c t -> t", "mean")
    return _Waveform(resample(mono, source.sample_rate, codec.sample_rate), waveform.shape[1] / source.sample_rate)


def _check_whole(source: AudioSource, length: int) -> None:
    if source.warning is not None and length < (1 - MAX_LACKING) * (source.promised_length or 0):
        raise ValueError(source.warning)


def _encode(codec: Codec, stages: int, waveforms: Sequence[_Waveform]) -> list[_Encoded | _Bad]:
    """Encode a batch, or, where one of them cannot be encoded, each alone."""
    if not waveforms:
        return []
    lengths = torch.tensor([len(waveform.samples) for waveform in waveforms])
    padded = pad_sequence([waveform.samples for waveform in waveforms], batch_first=True)
    try:
        codes = _to_array(codec.encode(rearrange(padded, "b t -> b 1 t").to(codec.device), stages, lengths=lengths))
    except ValueError as error:
        if len(waveforms) == 1:
            return [_Bad(str(error))]
        return [encoded for waveform in waveforms for encoded in _encode(codec, stages, [waveform])]
    return [
        _Encoded(each[:, : codec.num_frames(len(waveform.samples))], waveform.duration)
        for each, waveform in zip(codes, waveforms, strict=True)
    ]


def _stream(codec: Codec, stages: int, source: AudioSource, block_seconds: float) -> _Encoded:
    """Encode a long recording, of which only so many seconds are ever in memory."""
    resampler = Resampler(1, source.sample_rate, codec.sample_rate)
    length = 0
    parts = []

    def encode(mono: Tensor) -> None:
        parts.append(_to_array(codec.encode(rearrange(mono, "1 t -> 1 1 t").to(codec.device), stages)))

    with codec.streaming(1):
        for block in source.blocks(max(1, int(block_seconds * source.sample_rate))):
            length += block.shape[1]
            encode(resampler.push(reduce(block, "c t -> 1 t", "mean")))
        encode(resampler.flush())
        parts.append(_to_array(codec.flush()))
    _check_whole(source, length)
    return _Encoded(
        np.concatenate([rearrange(part, "1 q t -> q t") for part in parts], axis=1), length / source.sample_rate
    )


def _to_array(codes: Tensor) -> Codes:
    return codes.cpu().numpy().astype(np.uint16)


@contextmanager
def _one_thread() -> Iterator[None]:
    """How sums are split among threads shows in their last digits; and processes use the cores better."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _full_precision() -> Iterator[None]:
    """On GPUs: cuDNN convolves in TF32 unless told otherwise, with 10 bits of mantissa, which changes codes."""
    cudnn, places = torch.backends.cudnn, (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    precisions, deterministic = [place.fp32_precision for place in places], cudnn.deterministic
    for place in places:
        place.fp32_precision = "ieee"
    cudnn.deterministic = True
    try:
        yield
    finally:
        cudnn.deterministic = deterministic
        for place, precision in zip(places, precisions, strict=True):
            place.fp32_precision = precision
