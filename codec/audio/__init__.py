"""Audio files and sample rates."""

from codec.audio.file import Audio, AudioFileError, read_audio, write_audio
from codec.audio.resample import fit_length, resample, resampled_length

__all__ = [
    "Audio",
    "AudioFileError",
    "fit_length",
    "read_audio",
    "resample",
    "resampled_length",
    "write_audio",
]
