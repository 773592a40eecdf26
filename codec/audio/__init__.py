"""Audio files and sample rates."""

from codec.audio.excerpt import read_excerpt
from codec.audio.file import Audio, AudioFileError, AudioInfo, read_audio, read_info, write_audio
from codec.audio.find import AUDIO_SUFFIXES, find_audio
from codec.audio.resample import fit_length, resample, resampled_length

__all__ = [
    "AUDIO_SUFFIXES",
    "Audio",
    "AudioFileError",
    "AudioInfo",
    "find_audio",
    "fit_length",
    "read_audio",
    "read_excerpt",
    "read_info",
    "resample",
    "resampled_length",
    "write_audio",
]
