"""Audio <-> codes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.model.build import build_codec
    from codec.model.codec import Codec, CodecOutput
    from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig

__all__ = ["Codec", "CodecConfig", "CodecOutput", "ModelConfig", "QuantizerConfig", "build_codec"]

_HOMES = {
    "Codec": "codec.model.codec",
    "CodecConfig": "codec.model.config",
    "CodecOutput": "codec.model.codec",
    "ModelConfig": "codec.model.config",
    "QuantizerConfig": "codec.model.config",
    "build_codec": "codec.model.build",
}


def __getattr__(name: str) -> Any:
    # Settings and tables are read without torch, which takes more than a second to import.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
