"""The `seanet` family: strided convolutions on the waveform, as in SoundStream (arXiv 2107.03312) and EnCodec.

    encoder   waveform -> convolution -> (units -> activation -> strided convolution) for each ratio
                       -> LSTM -> activation -> convolution -> latents
    decoder   latents -> convolution -> LSTM -> (activation -> transposed convolution -> units) for each ratio
                      -> activation -> convolution -> waveform

A unit is activation -> dilated convolution to half the channels -> activation -> 1x1 convolution, added to its input.

With dim 32, ratios 8, 5, 4, 2, latent_dim 128 and no look-ahead this has the shape of EnCodec at 24 kHz (arXiv
2210.13438, section 3.1), but for three things. Before the start lie zeros, not the waveform reflected, in which the
first frames would see ahead. A unit adds its input as it is, not through another 1x1 convolution. And there is no
weight normalization: what a deep stack needs to learn soon is a start that passes the waveform.

So the layers start as a transform codec. At each rate the first channels hold the samples of a frame side by side,
as many as there are channels for; the last convolution of the encoder takes their lowest DCT coefficients, and the
decoder does the inverse. The other channels and the units start at random. The activations bend little of it, since
samples are small. With dim 8, 200 steps on speech brought the waveform loss to 0.81 from this start; 300 from a random
one left it above 1, with and without weight normalization.
"""

import math

import torch
from torch import Tensor, nn

from codec.choose import choose
from codec.layers import (
    ACTIVATIONS,
    LSTM,
    LSTM_MEMORY,
    CausalConv1d,
    CausalConvTranspose1d,
    DropFirst,
    PadFirst,
    Residual,
)
from codec.model.config import ModelConfig

# Puts the DCT coefficients of speech, the latents at the start, near a size of 1.
GAIN = 10.0


def seanet_encoder(config: ModelConfig) -> nn.Sequential:
    """Waveform [batch, 1, frames * hop_length + look_ahead] -> latents [batch, latent_dim, frames]."""
    # Frames of the stack end where the look-ahead of a code frame does. The first ones see nothing else yet.
    early = -(-config.look_ahead // config.hop_length)
    dim, held = config.dim, _samples_held(config)
    first = CausalConv1d(1, dim, config.kernel_size)
    _start_as_identity(first.conv.weight.data[:1])
    layers = [PadFirst(early * config.hop_length - config.look_ahead), first]
    for ratio, samples in zip(reversed(config.ratios), held[:-1], strict=True):
        fold = CausalConv1d(dim, 2 * dim, 2 * ratio, stride=ratio)
        _start_as_folding(fold.conv.weight.data, samples)
        layers += [*_units(config, dim), _activation(config, dim), fold]
        dim *= 2
    last = CausalConv1d(dim, config.latent_dim, config.kernel_size)
    _start_as_dct(last.conv.weight.data, held[-1], config)
    return _without_biases(
        nn.Sequential(*layers, *_lstm(config, dim), _activation(config, dim), last, DropFirst(early))
    )


def seanet_decoder(config: ModelConfig) -> nn.Sequential:
    """Latents [batch, latent_dim, frames] -> waveform [batch, 1, frames * hop_length]."""
    dim, held = config.dim * 2 ** len(config.ratios), _samples_held(config)
    first = CausalConv1d(config.latent_dim, dim, config.kernel_size)
    _start_as_inverse_dct(first.conv.weight.data, held[-1], config)
    layers = [first, *_lstm(config, dim)]
    for ratio, samples in zip(config.ratios, reversed(held[:-1]), strict=True):
        unfold = CausalConvTranspose1d(dim, dim // 2, 2 * ratio, stride=ratio)
        _start_as_unfolding(unfold.conv.weight.data, samples)
        layers += [_activation(config, dim), unfold, *_units(config, dim // 2)]
        dim //= 2
    last = CausalConv1d(dim, 1, config.kernel_size)
    _start_as_identity(last.conv.weight.data)
    return _without_biases(nn.Sequential(*layers, _activation(config, dim), last))


def seanet_pre_roll(config: ModelConfig) -> int:
    """Frames of latents before a frame that its samples depend on; of an LSTM, those that count."""
    # Back through the decoder: the first frame, at each rate, that the first sample of frame 0 depends on.
    first = 1 - config.kernel_size
    for ratio in reversed(config.ratios):
        first -= 2 * (2**config.residual_units - 1)
        first = first // ratio - 1
    first += 1 - config.kernel_size
    return -first + (LSTM_MEMORY if config.lstm_layers else 0)


def _units(config: ModelConfig, dim: int) -> list[Residual]:
    half = (dim + 1) // 2
    return [
        Residual(
            nn.Sequential(
                _activation(config, dim),
                CausalConv1d(dim, half, kernel_size=3, dilation=2**unit),
                _activation(config, half),
                CausalConv1d(half, dim, kernel_size=1),
            )
        )
        for unit in range(config.residual_units)
    ]


def _activation(config: ModelConfig, dim: int) -> nn.Module:
    return choose(ACTIVATIONS, config.activation, "activation")(dim)


def _lstm(config: ModelConfig, dim: int) -> list[Residual]:
    return [Residual(LSTM(dim, config.lstm_layers))] if config.lstm_layers else []


def _samples_held(config: ModelConfig) -> list[int]:
    """How many first channels start as samples side by side, at each rate from that of samples to that of frames."""
    held = [1]
    for level, ratio in enumerate(reversed(config.ratios), start=1):
        held.append(min(held[-1] * ratio, config.dim * 2**level))
    return held


def _without_biases(network: nn.Sequential) -> nn.Sequential:
    """Start the biases of convolutions at 0: random ones are louder than speech."""
    for name, parameter in network.named_parameters():
        if name.endswith("conv.bias"):
            nn.init.zeros_(parameter)
    return network


def _start_as_identity(weight: Tensor) -> None:
    """Pass the first channel alone, as it is, [1, in_channels, kernel_size]."""
    weight.zero_()
    weight[0, 0, -1] = 1


def _start_as_folding(weight: Tensor, samples: int) -> None:
    """Lay the first `samples` channels of the frames that become one side by side, [out, in, 2 * ratio]."""
    ratio = weight.shape[2] // 2
    weight[: ratio * samples] = 0
    for frame in range(ratio):
        nn.init.eye_(weight[frame * samples : (frame + 1) * samples, :samples, ratio + frame])


def _start_as_unfolding(weight: Tensor, samples: int) -> None:
    """Undo the folding, [in, out, 2 * ratio]."""
    weight[:, :samples] = 0
    for frame in range(weight.shape[2] // 2):
        nn.init.eye_(weight[frame * samples : (frame + 1) * samples, :samples, frame])


def _start_as_dct(weight: Tensor, samples: int, config: ModelConfig) -> None:
    """Take the lowest DCT coefficients of the samples of a code frame, [latent_dim, in, kernel_size]."""
    # The place in the code frame of each sample that the kernel sees: frames of the stack lie the look-ahead later, or
    # as much of it as the kernel spans.
    frames = torch.arange(1 - config.kernel_size, 1) * config.hop_length
    place = torch.arange(samples)[:, None] + frames + min(config.look_ahead, -int(frames[0]))
    inside = (place >= 0) & (place < config.hop_length)
    basis = _dct_basis(config)
    weight[: len(basis)] = 0
    weight[: len(basis), :samples] = GAIN * inside * basis[:, place.clamp(0, config.hop_length - 1)]


def _start_as_inverse_dct(weight: Tensor, samples: int, config: ModelConfig) -> None:
    """Make samples of DCT coefficients, [out, latent_dim, kernel_size]."""
    basis = _dct_basis(config)
    weight[:samples] = 0
    weight[:samples, : len(basis), -1] = basis[:, :samples].T / GAIN


def _dct_basis(config: ModelConfig) -> Tensor:
    """The lowest rows of the orthonormal DCT-II of a code frame, as many as there are latents for."""
    k = torch.arange(min(config.latent_dim, config.hop_length), dtype=torch.float64)
    n = torch.arange(config.hop_length, dtype=torch.float64) + 0.5
    basis = math.sqrt(2 / config.hop_length) * torch.cos(math.pi / config.hop_length * torch.outer(k, n))
    basis[0] /= math.sqrt(2)
    return basis.float()
