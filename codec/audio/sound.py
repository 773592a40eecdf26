"""What libsndfile opens, and the one kind of error for all that is wrong with it."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fstat
from pathlib import Path

import soundfile
import torch
from torch import Tensor

# A header may claim any rate, and resampling takes memory in proportion to it.
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 1_000_000
# As many as libsndfile knows.
MAX_CHANNELS = 1024

# What libsndfile gives for a length that a header leaves open.
UNKNOWN_LENGTH = (1 << 63) - 1


class AudioFileError(Exception):
    """A file that cannot be read or written as audio; the message is one line, `<path>: <what is wrong>`."""


@contextmanager
def open_audio(path: str | PathLike[str]) -> Iterator[soundfile.SoundFile]:
    """Open a file of any format that libsndfile knows for reading.

    Yields:
        The open file, of a rate within bounds.

    Raises:
        AudioFileError: Here, or in the block: the file cannot be opened or is not audio, what is read of it is damaged,
            or it claims a sample rate outside of 1 kHz to 1 MHz.
    """
    with audio_errors(str(path)), Path(path).open("rb") as file, open_sound(file.fileno(), str(path)) as sound:
        yield sound


def open_sound(descriptor: int, name: str) -> soundfile.SoundFile:
    """Open what a file holds from where it stands; it stays open.

    Raises:
        AudioFileError: The file is empty, or it claims a sample rate outside of 1 kHz to 1 MHz.
        soundfile.LibsndfileError: It is not audio.
    """
    if is_regular(descriptor) and not fstat(descriptor).st_size:
        raise AudioFileError(f"{name}: is an empty file")
    # libsndfile gets a descriptor, not a path: Python's open says what is wrong with a path, and an extension of a
    # headerless format (.raw, .vox) cannot pass just any bytes off as audio.
    sound = soundfile.SoundFile(descriptor, closefd=False)
    check_rate(sound.samplerate, name)
    return sound


def name_of(path: str | PathLike[str] | int) -> str:
    """What messages call a file or a descriptor."""
    if isinstance(path, int):
        return {0: "standard input", 1: "standard output"}.get(path, f"descriptor {path}")
    return str(Path(path))


def is_regular(descriptor: int) -> bool:
    """Whether a file is one on a disk: not a pipe or a device, which cannot seek and may be live."""
    return stat.S_ISREG(fstat(descriptor).st_mode)


@contextmanager
def audio_errors(name: str) -> Iterator[None]:
    """Turn what the system or libsndfile report in the block into an error that names the file.

    Raises:
        AudioFileError: They reported something.
    """
    try:
        yield
    except OSError as error:
        raise AudioFileError(f"{name}: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        # Of some errors libsndfile knows no more than the number.
        reason = error.error_string.strip().rstrip(".") or f"libsndfile error {error.code}"
        raise AudioFileError(f"{name}: not readable as audio ({reason})") from error


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


def check_rate(sample_rate: int, name: str) -> None:
    """Refuse a sample rate that no audio has.

    Raises:
        AudioFileError: It is outside of 1 kHz to 1 MHz.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioFileError(
            f"{name}: sample rate must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz; got {sample_rate}"
        )


def check_finite(waveform: Tensor, path: str | PathLike[str]) -> None:
    """Refuse samples that are NaN or infinite.

    Raises:
        AudioFileError: There are some.
    """
    if not torch.isfinite(waveform).all():
        raise AudioFileError(f"{path}: holds NaN or infinite samples")
