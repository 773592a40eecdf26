"""Audio files: whatever libsndfile reads comes in, 16-bit WAV goes out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

# A header may claim any rate, and resampling takes memory in proportion to it.
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 1_000_000

# What libsndfile gives for a length that a header leaves open.
UNKNOWN_LENGTH = (1 << 63) - 1
BLOCK_LENGTH = 1 << 18
FULL_SCALE = 1 << 15
# The sizes in a WAV file are 32-bit numbers of bytes; libsndfile lets them wrap around without a word.
MAX_WAV_SAMPLES = (1 << 32) // 2 - 256


class AudioFileError(Exception):
    """A file that cannot be read or written as audio; the message is one line, `<path>: <what is wrong>`."""


class Audio(NamedTuple):
    """A waveform and its rate.

    Attributes:
        waveform: float32, in [-1, 1] unless the file itself goes beyond, [channels, time].
        sample_rate: Hz.
    """

    waveform: Tensor
    sample_rate: int


class AudioInfo(NamedTuple):
    """What the header of a file says.

    Attributes:
        sample_rate: Hz.
        channels: How many.
        length: Samples of each channel.
    """

    sample_rate: int
    channels: int
    length: int

    @property
    def seconds(self) -> float:
        """The length in time."""
        return self.length / self.sample_rate


def read_audio(path: str | PathLike[str], max_seconds: float = math.inf) -> Audio:
    """Read a file of any format that libsndfile knows (WAV, FLAC, Ogg, MP3 and others), as it is.

    The format is found from the contents: the extension plays no part.

    Args:
        path: The file.
        max_seconds: How much of it at most, from its beginning; the rest is not decoded.

    Returns:
        At least one sample, all of them finite.

    Raises:
        AudioFileError: The file cannot be opened, is not audio, is damaged, has no samples, has NaN or infinite
            samples, or claims a sample rate outside of 1 kHz to 1 MHz.
    """
    with open_audio(path) as sound:
        samples, sample_rate = _read_blocks(sound, max_seconds * sound.samplerate), sound.samplerate
    if not len(samples):
        raise AudioFileError(f"{path}: holds no samples")
    check_finite(samples, path)
    return Audio(torch.from_numpy(np.ascontiguousarray(samples.T)), sample_rate)


def read_info(path: str | PathLike[str]) -> AudioInfo:
    """Read the header of a file, and none of its samples: some of them may be damaged or lacking all the same.

    Returns:
        With at least one sample.

    Raises:
        AudioFileError: The file cannot be opened, is not audio, does not say how long it is, has no samples, or claims
            a sample rate outside of 1 kHz to 1 MHz.
    """
    with open_audio(path) as sound:
        return AudioInfo(sound.samplerate, sound.channels, stated_length(sound, path))


@contextmanager
def open_audio(path: str | PathLike[str]) -> Iterator[soundfile.SoundFile]:
    """Open a file of any format that libsndfile knows for reading.

    Yields:
        The open file, of a rate within bounds.

    Raises:
        AudioFileError: Here, or in the block: the file cannot be opened or is not audio, what is read of it is damaged,
            or it claims a sample rate outside of 1 kHz to 1 MHz.
    """
    path = Path(path)
    try:
        # libsndfile gets a descriptor, not a path: Python's open says what is wrong with a path, and an extension of a
        # headerless format (.raw, .vox) cannot pass just any bytes off as audio.
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise AudioFileError(f"{path}: is an empty file")
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                _check_rate(sound.samplerate, path)
                yield sound
    except OSError as error:
        raise AudioFileError(f"{path}: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise AudioFileError(f"{path}: not readable as audio ({_reason(error)})") from error


def stated_length(sound: soundfile.SoundFile, path: str | PathLike[str]) -> int:
    """Samples that an open file says it has.

    Raises:
        AudioFileError: None, or it does not say: a FLAC file that was written to a pipe.
    """
    if sound.frames == UNKNOWN_LENGTH:
        raise AudioFileError(f"{path}: does not say how long it is")
    if not sound.frames:
        raise AudioFileError(f"{path}: holds no samples")
    return sound.frames


def check_finite(samples: np.ndarray, path: str | PathLike[str]) -> None:
    """Refuse samples that are NaN or infinite.

    Raises:
        AudioFileError: There are some.
    """
    if not np.isfinite(samples).all():
        raise AudioFileError(f"{path}: holds NaN or infinite samples")


def write_audio(path: str | PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write 16-bit WAV, whatever the extension; an existing file is replaced.

    Args:
        path: Where to write.
        waveform: Finite floats, [channels, time]. Samples outside of [-1, 1] are clipped.
        sample_rate: Hz.

    Raises:
        ValueError: `waveform` has another number of axes, or NaN or infinite samples.
        AudioFileError: The file cannot be written, or would be longer than a WAV file can be (4 GiB).
    """
    path = Path(path)
    samples = _to_int16(waveform)
    if samples.size > MAX_WAV_SAMPLES:
        raise AudioFileError(f"{path}: a WAV file holds at most {MAX_WAV_SAMPLES} samples; got {samples.size}")
    try:
        _write_samples(path, samples, sample_rate)
    except OSError as error:
        raise AudioFileError(f"{path}: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise AudioFileError(f"{path}: not writable ({_reason(error)})") from error


def _check_rate(sample_rate: int, path: Path) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioFileError(
            f"{path}: sample rate must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz; got {sample_rate}"
        )


def _read_blocks(sound: soundfile.SoundFile, max_length: float) -> np.ndarray:
    # In blocks, because the length in a header is a claim: reading all at once would take memory for it first.
    blocks = [np.empty((0, sound.channels), dtype=np.float32)]
    wanted = max_length
    while len(block := sound.read(math.ceil(min(wanted, BLOCK_LENGTH)), dtype="float32", always_2d=True)):
        blocks.append(block)
        wanted -= len(block)
    return np.concatenate(blocks)


def _write_samples(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    channels = samples.shape[1]
    with (
        path.open("wb") as file,
        soundfile.SoundFile(
            file.fileno(), "w", sample_rate, channels, subtype="PCM_16", format="WAV", closefd=False
        ) as sound,
    ):
        sound.write(samples)


def _to_int16(waveform: Tensor) -> np.ndarray:
    if waveform.ndim != 2:
        raise ValueError(f"waveform must be [channels, time]; got shape {tuple(waveform.shape)}")
    if not waveform.isfinite().all():
        raise ValueError("waveform must be finite; got NaN or infinite samples")
    scaled = (waveform.detach().cpu().float() * FULL_SCALE).round()
    # Clip before the conversion, which would wrap around: +1.0 is one step beyond the largest 16-bit number.
    return scaled.clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16).T.contiguous().numpy()


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")
