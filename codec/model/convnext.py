"""The `convnext` family: a lapped transform, ConvNeXt blocks at the frame rate, the inverse transform.

    encoder   waveform -> MDCT -> compression -> convolution -> blocks -> fold `ratio` transform frames into one
    decoder   latents -> unfold -> blocks -> head: 1x1 convolution -> expansion -> inverse MDCT -> waveform

Nothing normalizes the path from MDCT to inverse MDCT, and the layers on it start as (nearly) an identity on the lower
MDCT coefficients. So the codec starts as a transform codec, and learns what improves on that. What the blocks add has a
size of its own, whatever the level of the audio; so the path is companded, else they could do little for loud frames
and the quantizer little for faint ones.

Other heads, which start at random, make samples in other ways, with the same timing:

    magnitude_phase   1x1 convolution -> log magnitude and phase -> inverse STFT, as in Vocos (arXiv 2306.00814)
    real_imaginary    1x1 convolution -> real and imaginary part -> inverse STFT
    overlap_add       1x1 convolution -> two hops of samples -> overlap-add
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from codec.choose import choose
from codec.layers import (
    MDCT,
    CausalConv1d,
    Compress,
    ConvNeXtBlock,
    DropFirst,
    Expand,
    InverseMDCT,
    InverseSTFT,
    MagnitudePhase,
    OverlapAdd,
)
from codec.model.config import ModelConfig

# Puts the MDCT coefficients of speech near the size of the branches of the blocks; every head divides by it.
GAIN = 10.0


def convnext_encoder(config: ModelConfig) -> nn.Sequential:
    """Waveform [batch, 1, frames * hop_length + look_ahead] -> latents [batch, latent_dim, frames]."""
    hop, ratio = config.transform_hop, config.hop_length // config.transform_hop
    # One hop of the look-ahead goes to the transform, whose last frame reaches as far beyond the code frame.
    ahead = config.look_ahead // hop - 1
    spread = CausalConv1d(hop, config.dim, kernel_size=ahead + 1)
    fold = nn.Conv1d(config.dim, config.latent_dim, kernel_size=ratio, stride=ratio)
    # The output for a frame is computed `ahead` frames later: there the frame itself lies under the first tap.
    # The other channels, beyond those of coefficients, look ahead from the start.
    spread.conv.weight.data[:hop, :, 1:] = 0
    _start_as_identity(spread.conv.weight.data[:, :, 0])
    _start_as_folding(fold.weight.data)
    compress = [] if config.companding == 1 else [Compress(config.companding)]
    return nn.Sequential(
        MDCT(hop, GAIN), *compress, spread, *_blocks(config, config.encoder_depth), DropFirst(ahead), fold
    )


def convnext_decoder(config: ModelConfig) -> nn.Sequential:
    """Latents [batch, latent_dim, frames] -> waveform [batch, 1, frames * hop_length]."""
    ratio = config.hop_length // config.transform_hop
    unfold = nn.ConvTranspose1d(config.latent_dim, config.dim, kernel_size=ratio, stride=ratio)
    head = choose(HEADS, config.head, "head")(config)
    _start_as_folding(unfold.weight.data)
    return nn.Sequential(unfold, *_blocks(config, config.decoder_depth), *head)


def convnext_pre_roll(config: ModelConfig) -> int:
    """Frames of latents before a frame that its samples depend on."""
    # In transform frames: what the blocks look back, and the one that every head overlaps with.
    past = config.decoder_depth * (config.kernel_size - 1) + 1
    return -(-past * config.transform_hop // config.hop_length)


def _mdct(config: ModelConfig) -> list[nn.Module]:
    gather = nn.Conv1d(config.dim, config.transform_hop, kernel_size=1)
    _start_as_identity(gather.weight.data[:, :, 0])
    expand = [] if config.companding == 1 else [Expand(config.companding)]
    return [gather, *expand, InverseMDCT(config.transform_hop, GAIN)]


def _magnitude_phase(config: ModelConfig) -> list[nn.Module]:
    hop = config.transform_hop
    gather = nn.Conv1d(config.dim, 2 * (hop + 1), kernel_size=1)
    # Vocos normalizes what comes here, this path does not, and `exp` would make loud frames far louder. Small weights
    # of the log magnitudes leave the start near one level.
    gather.weight.data[: hop + 1] *= 0.1
    # Audio in [-1, 1] has hardly larger magnitudes: a constant of 1 has this one at frequency 0.
    limit = GAIN * math.sqrt(hop) * 4 / math.pi
    return [gather, MagnitudePhase(limit), InverseSTFT(hop, GAIN)]


def _real_imaginary(config: ModelConfig) -> list[nn.Module]:
    hop = config.transform_hop
    return [nn.Conv1d(config.dim, 2 * (hop + 1), kernel_size=1), InverseSTFT(hop, GAIN)]


def _overlap_add(config: ModelConfig) -> list[nn.Module]:
    hop = config.transform_hop
    return [nn.Conv1d(config.dim, 2 * hop, kernel_size=1), OverlapAdd(hop, GAIN)]


# Layers from [batch, dim, frames] to [batch, 1, frames * transform_hop].
HEADS: dict[str, Callable[[ModelConfig], list[nn.Module]]] = {
    "mdct": _mdct,
    "magnitude_phase": _magnitude_phase,
    "real_imaginary": _real_imaginary,
    "overlap_add": _overlap_add,
}


def _blocks(config: ModelConfig, depth: int) -> list[ConvNeXtBlock]:
    return [ConvNeXtBlock(config.dim, config.expansion, config.kernel_size) for _ in range(depth)]


def _start_as_identity(weight: Tensor) -> None:
    """Pass channel i to channel i alone, in a view of a weight; channels that have no counterpart stay at random."""
    size = min(weight.shape)
    weight[:size, :] = 0
    weight[:, :size] = 0
    weight[:size, :size] = torch.eye(size)


def _start_as_folding(weight: Tensor) -> None:
    """Give each of the folded frames an equal share of the latents, [latent_dim, dim, ratio]."""
    weight.zero_()
    for frame, channels in enumerate(weight.chunk(weight.shape[-1])):
        _start_as_identity(channels[:, :, frame])
