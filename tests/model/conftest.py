"""A codec small enough for every test, whose codebooks have seen speech."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codec.model import Codec, CodecConfig, ModelConfig, QuantizerConfig, build_codec


@pytest.fixture
def config() -> CodecConfig:
    """Two transform frames a code frame, and a look-ahead of one and a half code frames."""
    return CodecConfig(
        name="tiny",
        model=ModelConfig(
            hop_length=32, transform_hop=16, look_ahead=48, dim=24, encoder_depth=2, decoder_depth=1,
            expansion=2, kernel_size=3, latent_dim=32,
        ),
        quantizer=QuantizerConfig(num_quantizers=4, codebook_size=16),
    )  # fmt: skip


@pytest.fixture
def make_codec(speech: Tensor) -> Callable[[CodecConfig], Codec]:
    """Build a codec in eval mode with codebooks initialized on speech."""

    def make(config: CodecConfig) -> Codec:
        codec = build_codec(config)
        # Branches as strong as training makes them, so that tests of what depends on what see them.
        for name, parameter in codec.named_parameters():
            if name.endswith(".scale"):
                torch.nn.init.uniform_(parameter.data, -1, 1)
        with torch.no_grad():
            codec(speech[..., :16_000])
        return codec.eval()

    return make


@pytest.fixture
def codec(config: CodecConfig, make_codec: Callable[[CodecConfig], Codec]) -> Codec:
    return make_codec(config)
