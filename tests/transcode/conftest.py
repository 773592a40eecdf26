"""A small codec at 16 kHz, and ways to run audio through it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codec.audio import RawFormat, open_sink, open_source
from codec.model import Codec, CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.transcode import Decoded, decode_file, encode_source


@pytest.fixture(scope="session")
def codec(clips: list[Path]) -> Codec:
    """Frames of 20 ms, chunks of 100; it never learned anything but its codebooks, from one clip."""
    torch.manual_seed(1)
    config = CodecConfig(
        name="tiny",
        model=ModelConfig(dim=32, encoder_depth=1, decoder_depth=1, latent_dim=16),
        quantizer=QuantizerConfig(num_quantizers=4, codebook_size=64),
    )
    codec = build_codec(config)
    samples, _ = soundfile.read(clips[-1], dtype="float32")
    with torch.no_grad():
        codec(torch.from_numpy(samples)[None, None])
    return codec.eval()


@pytest.fixture(scope="session")
def long_speech(clips: list[Path]) -> Tensor:
    """13 s of three speakers, [1, time]."""
    return torch.cat([torch.from_numpy(soundfile.read(clip, dtype="float32")[0]) for clip in clips])[None]


@pytest.fixture
def encode(codec: Codec, tmp_path: Path) -> Callable[..., bytes]:
    """Samples to a file of codes: `encode(waveform, sample_rate, **options)`."""

    def encode(waveform: Tensor, sample_rate: int = 16_000, **options) -> bytes:
        path = tmp_path / "source.wav"
        soundfile.write(path, waveform.T.numpy(), sample_rate, subtype="FLOAT")
        with open_source(path) as source:
            file = io.BytesIO()
            encode_source(codec, source, file, **options)
        return file.getvalue()

    return encode


class Output:
    """What was decoded, and what was said of it."""

    def __init__(self, waveform: Tensor, sample_rate: int, length: int | None, decoded: Decoded):
        self.waveform = waveform
        self.sample_rate = sample_rate
        self.length = length
        self.decoded = decoded


@pytest.fixture
def decode(codec: Codec, tmp_path: Path) -> Callable[..., Output]:
    """A file of codes to samples that no 16-bit file rounded: `decode(data, **options)`."""

    def decode(data, **options) -> Output:
        opened = []
        path = tmp_path / "decoded.raw"

        def open_output(sample_rate, channels, length):
            opened.append((sample_rate, channels, length))
            return open_sink(path, sample_rate, channels, raw=RawFormat(sample_rate, channels, "f32"))

        file = io.BytesIO(data) if isinstance(data, bytes) else data
        decoded = decode_file(codec, file, open_output, **options)
        ((sample_rate, channels, length),) = opened
        samples = np.fromfile(path, dtype="<f4").reshape(-1, channels)
        return Output(torch.from_numpy(samples.T.copy()), sample_rate, length, decoded)

    return decode
