"""Language models of codes: a decoder-only transformer over the sequences of `codec.tokens`."""

from codec.lm.model import CodeLM

__all__ = ["CodeLM"]
