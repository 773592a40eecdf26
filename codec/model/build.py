"""From settings to a codec."""

from collections.abc import Callable

from torch import nn

from codec.choose import choose
from codec.model.codec import Codec
from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig
from codec.model.convnext import convnext_decoder, convnext_encoder
from codec.quantize import ResidualVQ, VectorQuantize
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.update import UPDATES, Frozen, Update

NetworkBuilder = Callable[[ModelConfig], nn.Module]

FAMILIES: dict[str, tuple[NetworkBuilder, NetworkBuilder]] = {"convnext": (convnext_encoder, convnext_decoder)}


def build_codec(config: CodecConfig) -> Codec:
    """A codec with fresh weights and uninitialized codebooks, in training mode.

    Raises:
        ValueError: A setting is out of range, or names a piece that does not exist.
    """
    model = config.model
    _check(model)
    encoder, decoder = choose(FAMILIES, model.family, "family")
    return Codec(config, encoder(model), _build_quantizer(config.quantizer, model.latent_dim), decoder(model))


def _build_quantizer(config: QuantizerConfig, latent_dim: int) -> ResidualVQ:
    if config.num_quantizers < 1:
        raise ValueError(f"num_quantizers must be positive; got {config.num_quantizers}")
    tempered = choose(ESTIMATORS, config.estimator, "estimator").tempered
    if min(config.temperature) <= 0:
        raise ValueError(f"temperature must be positive; got {config.temperature}")
    stages = [
        VectorQuantize(
            latent_dim,
            config.codebook_size,
            codebook_dim=config.codebook_dim or None,
            distance=config.distance,
            estimator=config.estimator,
            initializer=config.initializer,
            update=_build_update(config),
            temperature=config.temperature[0] if tempered else None,
        )
        for _ in range(config.num_quantizers)
    ]
    return ResidualVQ(stages, dropout=config.dropout)


def _build_update(config: QuantizerConfig) -> Update:
    update = choose(UPDATES, config.update, "update")
    if issubclass(update, Frozen):
        return update(decay=config.decay)
    return update(decay=config.decay, dead_ratio=config.dead_ratio)


def _check(config: ModelConfig) -> None:
    for name in ("sample_rate", "hop_length", "transform_hop", "dim", "expansion", "kernel_size", "latent_dim"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be positive; got {getattr(config, name)}")
    if min(config.encoder_depth, config.decoder_depth) < 0:
        raise ValueError(f"depths must not be negative; got {config.encoder_depth}, {config.decoder_depth}")
    hop = config.transform_hop
    if config.hop_length % hop:
        raise ValueError(f"hop_length must be a multiple of transform_hop {hop}; got {config.hop_length}")
    if config.look_ahead < hop or config.look_ahead % hop:
        raise ValueError(f"look_ahead must be a positive multiple of transform_hop {hop}; got {config.look_ahead}")
