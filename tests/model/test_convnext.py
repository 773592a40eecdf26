from dataclasses import replace

import pytest
import torch

from codec.layers import MDCT, InverseMDCT
from codec.model import ModelConfig
from codec.model.convnext import GAIN, convnext_decoder, convnext_encoder

PLAIN = ModelConfig(
    hop_length=32, transform_hop=16, look_ahead=16, dim=16, encoder_depth=0, decoder_depth=0, latent_dim=32
)


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("look_ahead", [16, 32, 80])
def test_encoder_and_decoder_keep_the_number_of_frames(ratio, look_ahead):
    config = replace(PLAIN, hop_length=16 * ratio, look_ahead=look_ahead, encoder_depth=1, decoder_depth=1)
    latents = convnext_encoder(config)(torch.randn(2, 1, 7 * 16 * ratio + look_ahead))
    assert latents.shape == (2, 32, 7)
    assert convnext_decoder(config)(latents).shape == (2, 1, 7 * 16 * ratio)


def without_biases(network):
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return network


def test_latents_start_as_the_folded_transform():
    waveform = torch.randn(1, 1, 5 * 32 + 16)
    transformed = MDCT(16, GAIN)(waveform)
    latents = without_biases(convnext_encoder(PLAIN))(waveform)
    torch.testing.assert_close(latents[:, :16], transformed[:, :, 0::2])
    torch.testing.assert_close(latents[:, 16:], transformed[:, :, 1::2])


def test_the_decoder_starts_as_the_inverse_of_the_folded_transform():
    latents = torch.randn(1, 32, 5)
    unfolded = torch.stack([latents[:, :16], latents[:, 16:]], dim=-1).flatten(2)
    decoded = without_biases(convnext_decoder(PLAIN))(latents)
    torch.testing.assert_close(decoded, InverseMDCT(16, GAIN)(unfolded), atol=1e-6, rtol=1e-5)


def test_where_every_coefficient_finds_a_channel_the_start_is_lossless():
    waveform = torch.randn(1, 1, 5 * 32 + 16)
    decoded = without_biases(convnext_decoder(PLAIN))(without_biases(convnext_encoder(PLAIN))(waveform))
    torch.testing.assert_close(decoded[..., 16:], waveform[..., 16 : 5 * 32], atol=1e-5, rtol=0)


def test_fewer_channels_than_coefficients_keep_the_low_ones():
    config = replace(PLAIN, dim=5)
    waveform = torch.randn(1, 1, 5 * 32 + 16)
    latents = without_biases(convnext_encoder(config))(waveform)
    torch.testing.assert_close(latents[:, :5], MDCT(16, GAIN)(waveform)[:, :5, 0::2])
