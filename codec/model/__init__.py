"""Audio <-> codes."""

from typing import TYPE_CHECKING

from codec.lazy import import_from

if TYPE_CHECKING:
    from codec.model.build import build_codec
    from codec.model.codec import Codec, CodecOutput
    from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig

__all__ = ["Codec", "CodecConfig", "CodecOutput", "ModelConfig", "QuantizerConfig", "build_codec"]

# Settings and tables are read without torch, which takes more than a second to import.
__getattr__ = import_from(
    __name__,
    {
        "Codec": "codec.model.codec",
        "CodecConfig": "codec.model.config",
        "CodecOutput": "codec.model.codec",
        "ModelConfig": "codec.model.config",
        "QuantizerConfig": "codec.model.config",
        "build_codec": "codec.model.build",
    },
)
