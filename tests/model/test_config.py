import json
from dataclasses import FrozenInstanceError, asdict

import pytest

from codec.model import CodecConfig, ModelConfig, QuantizerConfig
from codec.settings import settings_from


def test_settings_survive_json():
    config = CodecConfig(
        name="other",
        model=ModelConfig(family="seanet", sample_rate=24_000, dim=8, ratios=(8, 5, 2, 4)),
        quantizer=QuantizerConfig(codebook_dim=4, update="gradient", decay=0.5),
    )
    assert settings_from(json.loads(json.dumps(asdict(config))), CodecConfig) == config


def test_settings_that_are_left_out_keep_their_defaults():
    assert settings_from({"model": {"dim": 8}}, CodecConfig) == CodecConfig(model=ModelConfig(dim=8))


def test_models_saved_before_there_was_a_search_take_the_nearest_codes():
    settings = asdict(CodecConfig(quantizer=QuantizerConfig(codebook_size=64)))
    del settings["quantizer"]["beam_size"]
    assert settings_from(settings, CodecConfig).quantizer == QuantizerConfig(codebook_size=64, beam_size=1)


def test_settings_do_not_change_after_the_codec_was_built_from_them():
    with pytest.raises(FrozenInstanceError):
        CodecConfig().model.dim = 8
