"""Audio files and sample rates."""

from codec.audio.excerpt import read_excerpt
from codec.audio.file import Audio, AudioInfo, read_audio, read_info, write_audio
from codec.audio.find import AUDIO_SUFFIXES, find_audio
from codec.audio.raw import RawFormat, parse_raw
from codec.audio.resample import Resampler, fit_length, resample, resampled_length, resampling_margin
from codec.audio.sink import AudioSink, open_sink
from codec.audio.sound import AudioFileError
from codec.audio.source import AudioSource, open_source

__all__ = [
    "AUDIO_SUFFIXES",
    "Audio",
    "AudioFileError",
    "AudioInfo",
    "AudioSink",
    "AudioSource",
    "RawFormat",
    "Resampler",
    "find_audio",
    "fit_length",
    "open_sink",
    "open_source",
    "parse_raw",
    "read_audio",
    "read_excerpt",
    "read_info",
    "resample",
    "resampled_length",
    "resampling_margin",
    "write_audio",
]
