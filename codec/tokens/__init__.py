"""Codes <-> sequences of tokens for language models; knows no model."""

from codec.tokens.axes import to_codes
from codec.tokens.grammar import Grammar
from codec.tokens.pattern import PATTERNS
from codec.tokens.tokenizer import CodecTokenizer, TokenBatch
from codec.tokens.vocabulary import Vocabulary

__all__ = ["PATTERNS", "CodecTokenizer", "Grammar", "TokenBatch", "Vocabulary", "to_codes"]
