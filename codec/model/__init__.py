"""Audio <-> codes."""

from codec.model.build import build_codec
from codec.model.codec import Codec, CodecOutput
from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig

__all__ = ["Codec", "CodecConfig", "CodecOutput", "ModelConfig", "QuantizerConfig", "build_codec"]
