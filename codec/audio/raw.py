"""Samples without a header: PCM, as `arecord`, `sox` and `ffmpeg` write it into pipes, and as WAV files hold it."""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from codec.audio.sound import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

# Name, as in sox and ffmpeg -> bytes of a sample, little-endian. Only the 8-bit numbers are unsigned.
ENCODINGS = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4}


class RawFormat(NamedTuple):
    """What must be known of samples without a header.

    Attributes:
        sample_rate: Hz.
        channels: How many; the samples of one time follow each other.
        encoding: A key of `ENCODINGS`.
    """

    sample_rate: int
    channels: int
    encoding: str

    def __str__(self) -> str:
        return f"{self.sample_rate}:{self.channels}:{self.encoding}"

    @property
    def frame_bytes(self) -> int:
        """Bytes of the samples of one time in all channels."""
        return ENCODINGS[self.encoding] * self.channels

    def decode(self, data: bytes | bytearray) -> Tensor:
        """Turn bytes to samples; the numbers are those that libsndfile reads from a WAV file.

        Args:
            data: Whole frames.

        Returns:
            float32, integers in [-1, 1), [channels, time].
        """
        if self.encoding == "f32":
            samples = np.frombuffer(data, "<f4").astype(np.float32)
        else:
            samples = _decode_integers(np.frombuffer(data, np.uint8), ENCODINGS[self.encoding])
        return torch.from_numpy(np.ascontiguousarray(rearrange(samples, "(t c) -> c t", c=self.channels)))

    def encode(self, waveform: Tensor) -> bytes:
        """Turn samples to bytes: rounded to the nearest step and clipped to [-1, 1), f32 as they are.

        Args:
            waveform: Finite floats, [channels, time].

        Raises:
            ValueError: `waveform` has other axes or another number of channels, or NaN or infinite samples.
        """
        check_waveform(waveform)
        if len(waveform) != self.channels:
            raise ValueError(f"waveform must have {self.channels} channels; got {len(waveform)}")
        samples = rearrange(waveform.detach().cpu(), "c t -> (t c)").numpy()
        if self.encoding == "f32":
            return samples.astype("<f4").tobytes()
        return _encode_integers(samples, ENCODINGS[self.encoding])


def parse_raw(text: str) -> RawFormat:
    """Read a format from the command line: `16000:1:s16` is 16 kHz, mono, signed 16-bit.

    Raises:
        ValueError: It is none.
    """
    rate, channels, encoding = parts if len(parts := text.split(":")) == 3 else ("", "", "")
    if not (_is_number(rate) and _is_number(channels) and encoding in ENCODINGS):
        raise ValueError(
            "raw format must be RATE:CHANNELS:ENCODING, such as 16000:1:s16, with one of the encodings "
            f"{', '.join(ENCODINGS)}; got {text!r}"
        )
    if not MIN_SAMPLE_RATE <= int(rate) <= MAX_SAMPLE_RATE:
        raise ValueError(f"sample rate must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz; got {rate}")
    if not 1 <= int(channels) <= MAX_CHANNELS:
        raise ValueError(f"channels must be 1 to {MAX_CHANNELS}; got {channels}")
    return RawFormat(int(rate), int(channels), encoding)


def check_waveform(waveform: Tensor) -> None:
    """Refuse what is not audio.

    Raises:
        ValueError: `waveform` is not [channels, time], or has NaN or infinite samples.
    """
    if waveform.ndim != 2:
        raise ValueError(f"waveform must be [channels, time]; got shape {tuple(waveform.shape)}")
    if not waveform.isfinite().all():
        raise ValueError("waveform must be finite; got NaN or infinite samples")


def _is_number(text: str) -> bool:
    # `isdecimal` alone lets the digits of every script pass, and an int of any length takes its time.
    return text.isascii() and text.isdecimal() and len(text) < 10


def _decode_integers(data: np.ndarray, width: int) -> np.ndarray:
    """Integers of 1 to 4 bytes, put in the upper bytes of 32-bit ones, so that all have the same full scale."""
    wide = np.zeros((len(data) // width, 4), np.uint8)
    wide[:, 4 - width :] = data.reshape(-1, width)
    if width == 1:
        wide[:, 3] ^= 0x80  # unsigned: 128 is silence
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)


def _encode_integers(samples: np.ndarray, width: int) -> bytes:
    full_scale = 1 << (8 * width - 1)
    # Clip before the conversion, which would wrap around: +1.0 is one step beyond the largest number. In float64, since
    # float32 has no number for the largest one of 32 bits.
    scaled = np.clip(np.round(samples.astype(np.float64) * full_scale), -full_scale, full_scale - 1)
    wide = scaled.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]
    return (wide ^ np.uint8(0x80) if width == 1 else wide).tobytes()
