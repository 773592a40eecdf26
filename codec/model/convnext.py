"""The `convnext` family: a lapped transform, ConvNeXt blocks at the frame rate, the inverse transform.

    encoder   waveform -> MDCT -> convolution -> blocks -> fold `ratio` transform frames into one of latents
    decoder   latents -> unfold -> blocks -> 1x1 convolution -> inverse MDCT -> waveform

Nothing normalizes the path from MDCT to inverse MDCT, and the layers on it start as (nearly) an identity on the lower
MDCT coefficients. So the codec starts as a linear transform codec, and learns what improves on that.
"""

import torch
from torch import Tensor, nn

from codec.layers import MDCT, CausalConv1d, ConvNeXtBlock, DropFirst, InverseMDCT
from codec.model.config import ModelConfig

# Puts the MDCT coefficients of speech near the size of the branches of the blocks.
GAIN = 10.0


def convnext_encoder(config: ModelConfig) -> nn.Sequential:
    """Waveform [batch, 1, frames * hop_length + look_ahead] -> latents [batch, latent_dim, frames]."""
    hop, ratio = config.transform_hop, config.hop_length // config.transform_hop
    # One hop of the look-ahead goes to the transform, whose last frame reaches as far beyond the code frame.
    ahead = config.look_ahead // hop - 1
    spread = CausalConv1d(hop, config.dim, kernel_size=ahead + 1)
    fold = nn.Conv1d(config.dim, config.latent_dim, kernel_size=ratio, stride=ratio)
    # The output for a frame is computed `ahead` frames later: there the frame itself lies under the first tap.
    _start_as_identity(spread.conv.weight.data[:, :, 0])
    _start_as_folding(fold.weight.data)
    return nn.Sequential(MDCT(hop, GAIN), spread, *_blocks(config, config.encoder_depth), DropFirst(ahead), fold)


def convnext_decoder(config: ModelConfig) -> nn.Sequential:
    """Latents [batch, latent_dim, frames] -> waveform [batch, 1, frames * hop_length]."""
    hop, ratio = config.transform_hop, config.hop_length // config.transform_hop
    unfold = nn.ConvTranspose1d(config.latent_dim, config.dim, kernel_size=ratio, stride=ratio)
    gather = nn.Conv1d(config.dim, hop, kernel_size=1)
    _start_as_folding(unfold.weight.data)
    _start_as_identity(gather.weight.data[:, :, 0])
    return nn.Sequential(unfold, *_blocks(config, config.decoder_depth), gather, InverseMDCT(hop, GAIN))


def convnext_pre_roll(config: ModelConfig) -> int:
    """Frames of latents before a frame that its samples depend on."""
    # In transform frames: what the blocks look back, and the one that the inverse transform overlaps with.
    past = config.decoder_depth * (config.kernel_size - 1) + 1
    return -(-past * config.transform_hop // config.hop_length)


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
