"""Neural audio coding with residual vector quantization."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.model import Codec, CodecConfig, CodecOutput, build_codec
    from codec.quantize import ResidualVQ, VectorQuantize
    from codec.tokens import CodecTokenizer

__all__ = ["Codec", "CodecConfig", "CodecOutput", "CodecTokenizer", "ResidualVQ", "VectorQuantize", "build_codec"]

_HOMES = {
    "Codec": "codec.model",
    "CodecConfig": "codec.model",
    "CodecOutput": "codec.model",
    "CodecTokenizer": "codec.tokens",
    "ResidualVQ": "codec.quantize",
    "VectorQuantize": "codec.quantize",
    "build_codec": "codec.model",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes more than a second: `codec --help` and readers of files do without it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
