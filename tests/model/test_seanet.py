import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from codec.layers import ACTIVATIONS, Residual
from codec.model import Codec, ModelConfig
from codec.model.seanet import GAIN, seanet_decoder, seanet_encoder

HOP = 24
SMALL = ModelConfig(
    family="seanet", hop_length=HOP, look_ahead=0, dim=6, kernel_size=5, latent_dim=HOP, ratios=(4, 3, 2), lstm_layers=1
)
LOOK_AHEADS = [0, 1, 23, 24, 37, 48]


def randomized(network):
    """With no weight at 0, so that all that can depend on something does."""
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def linear(network):
    """Without activations and branches: what passes through is what the start is made for."""
    for name, module in network.named_children():
        if isinstance(module, Residual | nn.ELU):
            setattr(network, name, nn.Identity())
    return network


def samples_seen(config):
    """How many samples a frame of latents depends on, without an LSTM: the text book's sum over the layers."""
    size, step = config.kernel_size, 1
    for ratio in reversed(config.ratios):
        for unit in range(config.residual_units):
            size += 2 * 2**unit * step
        size += (2 * ratio - 1) * step
        step *= ratio
    return size + (config.kernel_size - 1) * step


def gradient_reach(output, source):
    """First and last place of `source`, [1, channels, time], that `output` depends on."""
    (gradient,) = torch.autograd.grad(output.sum(), source)
    touched = gradient.any(dim=1).flatten().nonzero().flatten().tolist()
    return touched[0], touched[-1]


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lstm_layers": 0, "residual_units": 0},
        {"lstm_layers": 2, "residual_units": 3},
        {"ratios": (24,)},
        {"ratios": (), "hop_length": 1},
        {"ratios": (1, 3, 8), "dim": 1, "kernel_size": 1, "latent_dim": 40},
    ],
)
def test_encoder_and_decoder_keep_the_number_of_frames(look_ahead, settings):
    config = replace(SMALL, look_ahead=look_ahead, **settings)
    latents = seanet_encoder(config)(torch.randn(2, 1, 5 * config.hop_length + look_ahead))
    assert latents.shape == (2, config.latent_dim, 5)
    assert seanet_decoder(config)(latents).shape == (2, 1, 5 * config.hop_length)


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_frame_sees_its_look_ahead_to_the_last_sample_and_a_bounded_past(look_ahead, activation):
    config = replace(SMALL, look_ahead=look_ahead, activation=activation, lstm_layers=0, residual_units=2)
    encoder = randomized(seanet_encoder(config))
    waveform = torch.randn(1, 1, 20 * HOP + look_ahead, requires_grad=True)
    end = 16 * HOP + look_ahead
    assert samples_seen(config) < end
    assert gradient_reach(encoder(waveform)[..., 15], waveform) == (end - samples_seen(config), end - 1)


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
def test_with_an_lstm_a_frame_sees_its_look_ahead_and_all_of_the_past(look_ahead):
    config = replace(SMALL, look_ahead=look_ahead)
    waveform = torch.randn(1, 1, 20 * HOP + look_ahead, requires_grad=True)
    latents = randomized(seanet_encoder(config))(waveform)
    assert gradient_reach(latents[..., 15], waveform) == (0, 16 * HOP + look_ahead - 1)


@pytest.mark.parametrize("lstm_layers", [0, 1])
@pytest.mark.parametrize("sample", [0, 7, HOP - 1])
def test_each_sample_of_a_frame_sees_the_latents_of_the_frame_and_none_after(lstm_layers, sample):
    latents = torch.randn(1, HOP, 20, requires_grad=True)
    waveform = randomized(seanet_decoder(replace(SMALL, lstm_layers=lstm_layers)))(latents)
    first, last = gradient_reach(waveform[..., 15 * HOP + sample], latents)
    assert last == 15
    assert (first == 0) == (lstm_layers > 0)


def test_without_an_lstm_a_part_with_its_past_gives_the_latents_of_the_whole():
    config = replace(SMALL, look_ahead=37, lstm_layers=0)
    encoder = randomized(seanet_encoder(config))
    waveform = torch.randn(1, 1, 40 * HOP + 37)
    skipped = -(-samples_seen(config) // HOP)
    part = encoder(waveform[..., (20 - skipped) * HOP : 25 * HOP + 37])
    torch.testing.assert_close(part[..., skipped:], encoder(waveform)[..., 20:25], atol=1e-5, rtol=0)


def test_with_the_settings_of_encodec_it_has_the_size_of_encodec():
    config = ModelConfig(family="seanet", sample_rate=24_000, look_ahead=0, dim=32)
    size = sum(weight.numel() for build in (seanet_encoder, seanet_decoder) for weight in build(config).parameters())
    # EnCodec's encoder and decoder, counted from its code, have 14,851,810: besides these, a 1x1 convolution beside
    # each unit, and a norm for each channel out of a convolution, or channel in of a transposed one.
    shortcuts = 2 * sum(dim * dim + dim for dim in (32, 64, 128, 256))
    units = sum(dim // 2 + dim + dim for dim in (32, 64, 128, 256))
    encoder = 32 + units + (64 + 128 + 256 + 512) + 128
    decoder = 512 + units + (512 + 256 + 128 + 64) + 1
    assert size + shortcuts + encoder + decoder == 14_851_810


@pytest.mark.parametrize("look_ahead", [0, 5, 24, 37, 96])
def test_latents_start_as_the_dct_of_the_frame(look_ahead):
    waveform = torch.randn(1, 1, 5 * HOP + look_ahead)
    latents = linear(seanet_encoder(replace(SMALL, look_ahead=look_ahead, latent_dim=7)))(waveform)
    for frame in range(5):
        samples = waveform[0, 0, frame * HOP : (frame + 1) * HOP].tolist()
        for k in range(7):
            cosines = [math.cos(math.pi / HOP * (n + 0.5) * k) for n in range(HOP)]
            coefficient = math.sqrt((2 if k else 1) / HOP) * sum(x * c for x, c in zip(samples, cosines, strict=True))
            assert latents[0, k, frame].item() == pytest.approx(GAIN * coefficient, abs=1e-4)


@pytest.mark.parametrize("look_ahead", [0, 5, 24, 37, 96])
def test_where_every_sample_finds_a_channel_and_a_latent_the_start_is_lossless(look_ahead):
    config = replace(SMALL, look_ahead=look_ahead)
    waveform = torch.randn(2, 1, 5 * HOP + look_ahead)
    decoded = linear(seanet_decoder(config))(linear(seanet_encoder(config))(waveform))
    torch.testing.assert_close(decoded, waveform[..., : 5 * HOP], atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fresh_network_of_ordinary_size_passes_speech_on(speech, activation):
    config = ModelConfig(family="seanet", look_ahead=0, dim=20, lstm_layers=0, activation=activation)
    waveform = speech[..., : 100 * 320]
    with torch.no_grad():
        decoded = seanet_decoder(config)(seanet_encoder(config)(waveform))
    assert torch.corrcoef(torch.stack([decoded.flatten(), waveform.flatten()]))[0, 1] > 0.5


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("look_ahead", [30, 10 * HOP])
def test_where_channels_are_few_or_the_look_ahead_is_long_latents_and_waveform_start_alive(dim, look_ahead):
    config = replace(SMALL, dim=dim, look_ahead=look_ahead, latent_dim=5)
    waveform = torch.randn(1, 1, 5 * HOP + look_ahead)
    latents = seanet_encoder(config)(waveform)
    decoded = seanet_decoder(config)(latents)
    assert latents.std() > 0.1
    assert 0 < decoded.square().mean() < 10 * waveform.square().mean()


@pytest.mark.parametrize("settings", [{}, {"activation": "snake", "lstm_layers": 0, "look_ahead": 7}])
def test_a_codec_comes_back_from_its_folder(configs, make_codec, speech, tmp_path, settings):
    codec = make_codec(replace(configs["seanet"], model=replace(configs["seanet"].model, **settings)))
    codec.save_pretrained(tmp_path)
    loaded = Codec.from_pretrained(tmp_path)
    assert (loaded.config, loaded.fingerprint()) == (codec.config, codec.fingerprint())
    codes = codec.encode(speech[..., :8000])
    assert torch.equal(loaded.encode(speech[..., :8000]), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
