"""Audio files: whatever libsndfile reads comes in, 16-bit WAV goes out."""

import math
from os import PathLike
from typing import NamedTuple

from torch import Tensor

from codec.audio.raw import check_waveform
from codec.audio.sink import open_sink
from codec.audio.sound import open_audio, stated_length
from codec.audio.source import open_source


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
    with open_source(path) as source:
        return Audio(source.read_all(max_seconds * source.sample_rate), source.sample_rate)


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


def write_audio(path: str | PathLike[str], waveform: Tensor, sample_rate: int) -> None:
    """Write 16-bit WAV, whatever the extension, or RF64 beyond 4 GiB; an existing file is replaced.

    Args:
        path: Where to write.
        waveform: Finite floats, [channels, time]. Samples outside of [-1, 1] are clipped.
        sample_rate: Hz.

    Raises:
        ValueError: `waveform` has another number of axes, or NaN or infinite samples.
        AudioFileError: The file cannot be written.
    """
    check_waveform(waveform)
    channels, length = waveform.shape
    with open_sink(path, sample_rate, channels, length=length) as sink:
        sink.write(waveform)
