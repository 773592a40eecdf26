from dataclasses import asdict, replace

import pytest
import torch

from codec.model import CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.model.build import FAMILIES
from codec.quantize import EMA, Frozen, Gradient
from codec.quantize.distance import DISTANCES
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import UPDATES


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_the_shapes_of_the_interface(configs, family):
    codec = build_codec(configs[family])
    latents = codec.encoder(torch.randn(2, 1, 5 * 32 + 48))
    assert latents.shape == (2, 32, 5)
    assert codec.decoder(latents).shape == (2, 1, 5 * 32)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (option, name)
        for option, table in {
            "distance": DISTANCES,
            "estimator": ESTIMATORS,
            "initializer": INITIALIZERS,
            "update": UPDATES,
        }.items()
        for name in table
    ],
)
def test_each_name_of_each_table_builds_a_codec_that_trains_and_codes(config, speech, option, name):
    codec = build_codec(replace(config, quantizer=replace(config.quantizer, **{option: name})))
    output = codec(speech[..., :8000])
    (output.waveform.square().mean() + sum(output.losses.values())).backward()
    codec.eval()
    assert torch.equal(codec.encode(speech[..., :8000]), codec(speech[..., :8000]).codes)


def test_settings_of_the_quantizer_arrive_in_every_stage(config):
    settings = QuantizerConfig(
        num_quantizers=3, codebook_size=8, codebook_dim=5, decay=0.9, dead_ratio=0.2, dropout=0.3
    )
    quantizer = build_codec(replace(config, quantizer=settings)).quantizer
    assert (quantizer.num_quantizers, quantizer.dropout) == (3, 0.3)
    for stage in quantizer.stages:
        assert stage.codebook.vectors.shape == (8, 5)
        assert (stage.codebook.update.decay, stage.codebook.update.dead_ratio) == (0.9, 0.2)


def test_code_vectors_have_the_size_of_the_latents_by_default(config):
    assert build_codec(config).quantizer.stages[0].codebook.vectors.shape == (16, 32)


@pytest.mark.parametrize(("name", "kind"), [("ema", EMA), ("gradient", Gradient), ("frozen", Frozen)])
def test_update_names_the_way_the_codebooks_learn(config, name, kind):
    update = (
        build_codec(replace(config, quantizer=replace(config.quantizer, update=name)))
        .quantizer.stages[0]
        .codebook.update
    )
    assert isinstance(update, kind)
    assert update.dead_ratio == (0 if name == "frozen" else 0.1)


def test_the_same_seed_gives_the_same_weights(config):
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_codec(config).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop_length": 40}, "hop_length must be a multiple of transform_hop 16; got 40"),
        ({"look_ahead": 0}, "look_ahead must be a positive multiple of transform_hop 16; got 0"),
        ({"look_ahead": 20}, "look_ahead must be a positive multiple of transform_hop 16; got 20"),
        ({"hop_length": 0}, "hop_length must be positive; got 0"),
        ({"transform_hop": 0}, "transform_hop must be positive; got 0"),
        ({"dim": -1}, "dim must be positive; got -1"),
        ({"latent_dim": 0}, "latent_dim must be positive; got 0"),
        ({"kernel_size": 0}, "kernel_size must be positive; got 0"),
        ({"companding": 0.0}, r"companding must be in \(0, 1\]; got 0.0"),
        ({"companding": 1.1}, r"companding must be in \(0, 1\]; got 1.1"),
        ({"companding": float("nan")}, r"companding must be in \(0, 1\]; got nan"),
        ({"encoder_depth": -1}, "depths must not be negative; got -1, 1"),
        ({"family": "convnxt"}, "family must be one of convnext, seanet; got 'convnxt'; did you mean 'convnext'"),
        ({"lstm_layers": 0}, r"lstm_layers must be left at 2, .* convnext does not read it \(seanet does\); got 0"),
        ({"ratios": (4, 8)}, r"ratios must be left at \(8, 5, 4, 2\), .* convnext does not .*; got \(4, 8\)"),
        ({"head": "mdtc"}, "head must be one of .*, overlap_add, real_imaginary; got 'mdtc'; did you mean 'mdct'"),
        ({"activation": "snake"}, "activation must be left at 'elu', .* convnext does not .*; got 'snake'"),
    ],
)
def test_a_convnext_that_cannot_be_is_refused(configs, settings, message):
    with pytest.raises(ValueError, match=message):
        build_codec(replace(configs["convnext"], model=replace(configs["convnext"].model, **settings)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop_length": 40}, r"hop_length must be the product of ratios \(2, 4, 4\); got 40"),
        ({"ratios": (2, 4)}, r"hop_length must be the product of ratios \(2, 4\); got 32"),
        ({"ratios": ()}, r"hop_length must be the product of ratios \(\); got 32"),
        ({"ratios": (-4, -8)}, r"ratios must be positive; got \(-4, -8\)"),
        ({"ratios": (0, 32)}, r"ratios must be positive; got \(0, 32\)"),
        ({"look_ahead": -1}, "look_ahead must not be negative; got -1"),
        ({"residual_units": -1}, "residual_units must not be negative; got -1"),
        ({"lstm_layers": -1}, "lstm_layers must not be negative; got -1"),
        ({"dim": 0}, "dim must be positive; got 0"),
        ({"activation": "snek"}, "activation must be one of elu, snake; got 'snek'; did you mean 'snake'"),
        (
            {"head": "overlap_add"},
            r"head must be left at 'mdct', .* seanet does not .* \(convnext does\); got 'overlap_",
        ),
        ({"companding": 0.5}, r"companding must be left at 1.0, .* seanet does not .* \(convnext does\); got 0.5"),
        ({"transform_hop": 16}, r"transform_hop must be left at 160, .* seanet does not .* \(convnext does\); got 16"),
    ],
)
def test_a_seanet_that_cannot_be_is_refused(configs, settings, message):
    with pytest.raises(ValueError, match=message):
        build_codec(replace(configs["seanet"], model=replace(configs["seanet"].model, **settings)))


def test_every_setting_of_a_family_is_one_and_belongs_to_no_other():
    settings = [name for family in FAMILIES.values() for name in family.settings]
    assert len(settings) == len(set(settings))
    assert set(settings) < asdict(ModelConfig()).keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_quantizers": 0}, "num_quantizers must be positive; got 0"),
        ({"codebook_size": 0}, "dim, codebook_size, codebook_dim and heads must be positive"),
        ({"codebook_dim": -1}, "dim, codebook_size, codebook_dim and heads must be positive"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\]; got 1.5"),
        ({"distance": "cosin"}, "distance must be one of .*; got 'cosin'; did you mean 'cosine'"),
        ({"estimator": "none"}, "estimator must be one of .*straight_through.*; got 'none'"),
        ({"initializer": "none"}, "initializer must be one of .*kmeans.*; got 'none'"),
        ({"temperature": (1.0, 0.0)}, r"temperature must be positive; got \(1.0, 0.0\)"),
        ({"beam_size": 0}, "beam_size must be positive; got 0"),
        ({"rate_weight": -1.0}, "rate_weight must be 0 or more, and finite; got -1.0"),
        ({"rate_weight": 0.1, "distance": "cosine"}, "rate_weight must be 0 but for the distance euclidean"),
        ({"update": "emma"}, "update must be one of .*; got 'emma'; did you mean 'ema'"),
    ],
)
def test_a_quantizer_that_cannot_be_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        build_codec(replace(config, quantizer=replace(config.quantizer, **settings)))


def test_a_network_without_blocks_is_a_codec_too(speech):
    codec = build_codec(CodecConfig(model=ModelConfig(dim=16, encoder_depth=0, decoder_depth=0)))
    assert codec(speech[..., :16_000]).waveform.shape == (1, 1, 16_000)
