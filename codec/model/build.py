"""From settings to a codec."""

from collections.abc import Callable

from torch import nn

from codec.choose import choose
from codec.model.codec import Codec
from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig
from codec.model.convnext import convnext_decoder, convnext_encoder
from codec.quantize import ResidualVQ, VectorQuantize
from codec.quantize.update import EMA, UPDATES, Frozen, Gradient

NetworkBuilder = Callable[[ModelConfig], nn.Module]

FAMILIES: dict[str, tuple[NetworkBuilder, NetworkBuilder]] = {"convnext": (convnext_encoder, convnext_decoder)}


def build_codec(config: CodecConfig) -> Codec:
    """A codec with fresh weights and uninitialized codebooks, in training mode.

    Raises:
        ValueError: A setting is out of range, or names a piece that does not exist.
    """
    _check(config.model)
    encoder, decoder = choose(FAMILIES, config.model.family, "family")
    return Codec(
        config, encoder(config.model), _build_quantizer(config.quantizer, config.model.latent_dim), decoder(config.model)
    )


def _build_quantizer(config: QuantizerConfig, latent_dim: int) -> ResidualVQ:
    if config.num_quantizers < 1:
        raise ValueError(f"num_quantizers must be positive; got {config.num_quantizers}")
    stages = [
        VectorQuantize(
            latent_dim,
            config.codebook_size,
            codebook_dim=config.codebook_dim or None,
            distance=config.distance,
            estimator=config.estimator,
            initializer=config.initializer,
            update=_build_update(config),
        )
        for _ in range(config.num_quantizers)
    ]
    return ResidualVQ(stages, dropout=config.dropout)


def _build_update(config: QuantizerConfig) -> EMA | Gradient | Frozen:
    update = choose(UPDATES, config.update, "update")
    if update is Frozen:
        return Frozen(decay=config.decay)
    return update(decay=config.decay, dead_ratio=config.dead_ratio)


def _check(config: ModelConfig) -> None:
    hop = config.transform_hop
    if hop < 1 or config.hop_length % hop:
        raise ValueError(f"hop_length must be a multiple of transform_hop {hop}; got {config.hop_length}")
    if config.look_ahead < hop or config.look_ahead % hop:
        raise ValueError(f"look_ahead must be a positive multiple of transform_hop {hop}; got {config.look_ahead}")
