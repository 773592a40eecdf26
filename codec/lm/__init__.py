"""Language models of codes: a decoder-only transformer over the sequences of `codec.tokens`."""

try:
    import transformers  # noqa: F401
except ImportError as error:
    message = "transformers must be installed for language models: pip install 'rvq-codec[lm]'"
    raise ImportError(message, name="transformers") from error

from codec.lm.model import CodeLM

__all__ = ["CodeLM"]
