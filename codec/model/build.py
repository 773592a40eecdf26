"""From settings to a codec."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from codec.choose import choose
from codec.model.codec import Codec
from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig
from codec.model.convnext import convnext_decoder, convnext_encoder, convnext_pre_roll
from codec.model.seanet import seanet_decoder, seanet_encoder, seanet_pre_roll
from codec.quantize import ResidualVQ, VectorQuantize
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.update import UPDATES, Frozen, Update

NetworkBuilder = Callable[[ModelConfig], nn.Module]


@dataclass(frozen=True)
class Family:
    """An encoder and a decoder that belong together.

    Attributes:
        encoder: Builds the encoder; `Codec` says what it maps to what.
        decoder: Builds the decoder.
        settings: Names of the settings that this family alone reads.
        pre_roll: Frames before a frame that its decoded samples depend on; see `Codec.pre_roll`.
        check: Raises a ValueError if one of them, or one that it reads in a way of its own, is out of range.
    """

    encoder: NetworkBuilder
    decoder: NetworkBuilder
    settings: tuple[str, ...]
    pre_roll: Callable[[ModelConfig], int]
    check: Callable[[ModelConfig], None]


def build_codec(config: CodecConfig) -> Codec:
    """A codec with fresh weights and uninitialized codebooks, in training mode.

    Raises:
        ValueError: A setting is out of range, names a piece that does not exist, or is one of another family and was
            changed from its default.
    """
    model = config.model
    family = choose(FAMILIES, model.family, "family")
    _check_positive(model, "sample_rate", "hop_length", "dim", "kernel_size", "latent_dim")
    _check_unread(model)
    family.check(model)
    quantizer = _build_quantizer(config.quantizer, model.latent_dim)
    return Codec(config, family.encoder(model), quantizer, family.decoder(model))


def _build_quantizer(config: QuantizerConfig, latent_dim: int) -> ResidualVQ:
    if config.num_quantizers < 1:
        raise ValueError(f"num_quantizers must be positive; got {config.num_quantizers}")
    tempered = choose(ESTIMATORS, config.estimator, "estimator").tempered
    if min(config.temperature) <= 0:
        raise ValueError(f"temperature must be positive; got {config.temperature}")
    if config.beam_size < 1:
        raise ValueError(f"beam_size must be positive; got {config.beam_size}")
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
    quantizer = ResidualVQ(stages, dropout=config.dropout)
    quantizer.check_rate_weight(config.rate_weight)
    return quantizer


def _build_update(config: QuantizerConfig) -> Update:
    update = choose(UPDATES, config.update, "update")
    if issubclass(update, Frozen):
        return update(decay=config.decay)
    return update(decay=config.decay, dead_ratio=config.dead_ratio)


def _check_positive(config: ModelConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be positive; got {getattr(config, name)}")


def _check_unread(config: ModelConfig) -> None:
    for family in FAMILIES.keys() - {config.family}:
        for name in FAMILIES[family].settings:
            default, value = getattr(ModelConfig(), name), getattr(config, name)
            if value != default:
                raise ValueError(
                    f"{name} must be left at {default!r}, since family {config.family} does not read it "
                    f"({family} does); got {value!r}"
                )


def _check_convnext(config: ModelConfig) -> None:
    _check_positive(config, "transform_hop", "expansion")
    if min(config.encoder_depth, config.decoder_depth) < 0:
        raise ValueError(f"depths must not be negative; got {config.encoder_depth}, {config.decoder_depth}")
    if not 0 < config.companding <= 1:
        raise ValueError(f"companding must be in (0, 1]; got {config.companding}")
    hop = config.transform_hop
    if config.hop_length % hop:
        raise ValueError(f"hop_length must be a multiple of transform_hop {hop}; got {config.hop_length}")
    if config.look_ahead < hop or config.look_ahead % hop:
        raise ValueError(f"look_ahead must be a positive multiple of transform_hop {hop}; got {config.look_ahead}")


def _check_seanet(config: ModelConfig) -> None:
    for name in ("look_ahead", "residual_units", "lstm_layers"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative; got {getattr(config, name)}")
    if min(config.ratios, default=1) < 1:
        raise ValueError(f"ratios must be positive; got {config.ratios}")
    if math.prod(config.ratios) != config.hop_length:
        raise ValueError(f"hop_length must be the product of ratios {config.ratios}; got {config.hop_length}")


FAMILIES: dict[str, Family] = {
    "convnext": Family(
        convnext_encoder,
        convnext_decoder,
        settings=("transform_hop", "encoder_depth", "decoder_depth", "expansion", "companding", "head"),
        pre_roll=convnext_pre_roll,
        check=_check_convnext,
    ),
    "seanet": Family(
        seanet_encoder,
        seanet_decoder,
        settings=("ratios", "residual_units", "lstm_layers", "activation"),
        pre_roll=seanet_pre_roll,
        check=_check_seanet,
    ),
}
