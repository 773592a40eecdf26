"""A codec small enough for every test, whose codebooks have seen speech."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codec.model import Codec, CodecConfig, ModelConfig, QuantizerConfig, build_codec


@pytest.fixture
def configs() -> dict[str, CodecConfig]:
    """By family. Both have code frames of 32 samples, and a look-ahead of one and a half."""
    models = {
        "convnext": ModelConfig(
            hop_length=32, transform_hop=16, look_ahead=48, dim=24, encoder_depth=2, decoder_depth=1,
            expansion=2, kernel_size=3, latent_dim=32,
        ),
        "seanet": ModelConfig(
            family="seanet", hop_length=32, look_ahead=48, dim=4, kernel_size=3, latent_dim=32, ratios=(2, 4, 4),
        ),
    }  # fmt: skip
    quantizer = QuantizerConfig(num_quantizers=4, codebook_size=16)
    return {family: CodecConfig(name="tiny", model=model, quantizer=quantizer) for family, model in models.items()}


@pytest.fixture
def config(configs: dict[str, CodecConfig]) -> CodecConfig:
    """Of the default family, for what the networks do not matter to."""
    return configs["convnext"]


@pytest.fixture
def make_codec(speech: Tensor) -> Callable[[CodecConfig], Codec]:
    """Build a codec in eval mode with codebooks initialized on speech."""

    def make(config: CodecConfig) -> Codec:
        codec = build_codec(config)
        # Branches as strong as training makes them, so that tests of what depends on what see them.
        for name, parameter in codec.named_parameters():
            if name.endswith(".scale"):
                torch.nn.init.uniform_(parameter.data, -1, 1)
            # Weights that start at 0 would hide as much.
            if config.model.family == "seanet":
                parameter.data += 0.1 * torch.randn_like(parameter)
        with torch.no_grad():
            codec(speech[..., :16_000])
        return codec.eval()

    return make


@pytest.fixture
def codec(config: CodecConfig, make_codec: Callable[[CodecConfig], Codec]) -> Codec:
    return make_codec(config)
