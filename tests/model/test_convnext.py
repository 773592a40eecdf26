from dataclasses import replace

import pytest
import torch

from codec.layers import MDCT, Compress, Expand, InverseMDCT
from codec.model import ModelConfig, build_codec
from codec.model.convnext import GAIN, HEADS, convnext_decoder, convnext_encoder, convnext_pre_roll

PLAIN = ModelConfig(
    hop_length=32, transform_hop=16, look_ahead=16, dim=16, encoder_depth=0, decoder_depth=0, latent_dim=32
)
companded = pytest.mark.parametrize("companding", [1.0, 0.5])


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("look_ahead", [16, 32, 80])
@pytest.mark.parametrize("head", HEADS)
def test_encoder_and_decoder_keep_the_number_of_frames(ratio, look_ahead, head):
    config = replace(PLAIN, hop_length=16 * ratio, look_ahead=look_ahead, encoder_depth=1, decoder_depth=1, head=head)
    latents = convnext_encoder(config)(torch.randn(2, 1, 7 * 16 * ratio + look_ahead))
    assert latents.shape == (2, 32, 7)
    assert convnext_decoder(config)(latents).shape == (2, 1, 7 * 16 * ratio)


def without_biases(network):
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return network


@companded
@pytest.mark.parametrize("look_ahead", [16, 32, 80])
def test_latents_start_as_the_folded_transform(look_ahead, companding):
    waveform = torch.randn(1, 1, 5 * 32 + look_ahead)
    transformed = Compress(companding)(MDCT(16, GAIN)(waveform[..., : 5 * 32 + 16]))
    config = replace(PLAIN, look_ahead=look_ahead, companding=companding)
    latents = without_biases(convnext_encoder(config))(waveform)
    torch.testing.assert_close(latents[:, :16], transformed[:, :, 0::2])
    torch.testing.assert_close(latents[:, 16:], transformed[:, :, 1::2])


@companded
def test_the_decoder_starts_as_the_inverse_of_the_folded_transform(companding):
    latents = torch.randn(1, 32, 5)
    unfolded = torch.stack([latents[:, :16], latents[:, 16:]], dim=-1).flatten(2)
    decoded = without_biases(convnext_decoder(replace(PLAIN, companding=companding)))(latents)
    expected = InverseMDCT(16, GAIN)(Expand(companding)(unfolded))
    torch.testing.assert_close(decoded, expected, atol=1e-6, rtol=1e-5)


@companded
def test_where_every_coefficient_finds_a_channel_the_start_is_lossless(companding):
    config, waveform = replace(PLAIN, companding=companding), torch.randn(1, 1, 5 * 32 + 16)
    decoded = without_biases(convnext_decoder(config))(without_biases(convnext_encoder(config))(waveform))
    torch.testing.assert_close(decoded[..., 16:], waveform[..., 16 : 5 * 32], atol=1e-5, rtol=0)


def test_fewer_channels_than_coefficients_keep_the_low_ones():
    config = replace(PLAIN, dim=5)
    waveform = torch.randn(1, 1, 5 * 32 + 16)
    latents = without_biases(convnext_encoder(config))(waveform)
    torch.testing.assert_close(latents[:, :5], MDCT(16, GAIN)(waveform)[:, :5, 0::2])


@torch.no_grad()
def test_with_look_ahead_blocks_and_biases_too_the_start_keeps_the_low_coefficients_of_speech(speech):
    config = ModelConfig(look_ahead=800, dim=64, encoder_depth=2, decoder_depth=2, latent_dim=112)
    decoded = convnext_decoder(config)(convnext_encoder(config)(speech[..., : 100 * 320 + 800]))
    coefficients = MDCT(160)(speech[..., : 100 * 320 + 160])
    coefficients[:, 112 // 2 :] = 0
    low = InverseMDCT(160)(coefficients)
    noise_db = 10 * ((decoded - low)[..., 160:].square().sum() / low[..., 160:].square().sum()).log10()
    # About -17; random weights beyond the first tap of the encoder's first convolution would make it -10.
    assert noise_db < -14


@companded
@pytest.mark.parametrize("head", HEADS)
def test_each_head_starts_no_louder_than_speech_and_finite_at_any_level(speech, head, companding):
    config = ModelConfig(dim=64, encoder_depth=1, decoder_depth=1, latent_dim=112, head=head, companding=companding)
    encoder, decoder = convnext_encoder(config), convnext_decoder(config)
    decoded = decoder(encoder(speech[..., : 100 * 320 + 800]))
    assert 1e-3 < decoded.square().mean().sqrt() < 0.1
    loud = decoder(encoder(1e4 * speech[..., : 100 * 320 + 800]))
    assert loud.isfinite().all()
    loud.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


@companded
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_each_head_streams_at_the_same_delay(config, make_codec, speech, head, companding):
    codec = make_codec(replace(config, model=replace(config.model, head=head, companding=companding)))
    waveform = speech[..., 16_000 : 16_000 + 100 * 32]
    codes = codec.encode(waveform)
    with codec.streaming():
        encoded = [codec.encode(part) for part in waveform.split([1, 100, 1000, 0, 2099], dim=-1)]
        assert torch.equal(torch.cat([*encoded, codec.flush()], dim=-1), codes)
        parts = [codec.decode(part) for part in codes.split([1, 2, 30, 0, 67], dim=-1)]
    assert [part.shape[-1] for part in parts] == [32, 64, 960, 0, 2144]
    torch.testing.assert_close(torch.cat(parts, dim=-1), codec.decode(codes), atol=1e-4, rtol=0)


@companded
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("depth", "pre_roll"), [(0, 1), (1, 2), (3, 4)])
def test_the_pre_roll_is_that_of_every_head(config, head, depth, pre_roll, companding):
    # A block looks back 2 transform frames, of which 2 are a code frame; the head one.
    settings = replace(config.model, head=head, decoder_depth=depth, companding=companding)
    latents = torch.randn(1, 32, 10, requires_grad=True)
    convnext_decoder(settings)(latents)[..., 8 * 32 : 9 * 32].sum().backward()
    assert latents.grad.any(dim=1).flatten().nonzero().flatten().tolist() == list(range(8 - pre_roll, 9))
    assert convnext_pre_roll(settings) == pre_roll


def test_the_head_of_a_model_that_names_none_has_the_names_it_always_had(config):
    names = build_codec(config).decoder.state_dict().keys()
    assert [name for name in names if name.startswith(("2", "3"))] == ["2.weight", "2.bias"]
