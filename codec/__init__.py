"""Neural audio coding with residual vector quantization."""

from typing import TYPE_CHECKING

from codec.lazy import import_from

if TYPE_CHECKING:
    from codec.model import Codec, CodecConfig, CodecOutput, build_codec
    from codec.quantize import ResidualVQ, VectorQuantize
    from codec.tokens import CodecTokenizer

__all__ = ["Codec", "CodecConfig", "CodecOutput", "CodecTokenizer", "ResidualVQ", "VectorQuantize", "build_codec"]

# Importing torch takes more than a second: `codec --help` and readers of files do without it.
__getattr__ = import_from(
    __name__,
    {
        "Codec": "codec.model",
        "CodecConfig": "codec.model",
        "CodecOutput": "codec.model",
        "CodecTokenizer": "codec.tokens",
        "ResidualVQ": "codec.quantize",
        "VectorQuantize": "codec.quantize",
        "build_codec": "codec.model",
    },
)
