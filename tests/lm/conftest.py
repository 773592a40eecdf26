"""Tiny tokenized corpora, and language models that never learned anything."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.lm.model import CodeLM, build_lm
from codec.lm.recipe import TransformerConfig
from codec.shards import CodecFacts, Row, finish, write_shard
from codec.tokens import CodecTokenizer


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[[CodecTokenizer, Sequence[Tensor]], Path]:
    """`make_corpus(tokenizer, codes)`: the folder of a finished corpus of two shards, the second with the last clip."""

    def make(tokenizer: CodecTokenizer, codes: Sequence[Tensor]) -> Path:
        folder = tmp_path / f"{tokenizer.pattern}_{tokenizer.num_quantizers}"
        facts = CodecFacts("tiny", "00ff", 16_000, 12.5, tokenizer.codebook_size, tokenizer.num_quantizers)
        rows = [
            Row(f"{index}", f"{index}.flac", clip.numpy().astype("uint16"), clip.shape[1] / 12.5, None, None)
            for index, clip in enumerate(codes)
        ]
        tokenizer.save_pretrained(folder)
        write_shard(folder, 0, rows[:-1], [], facts, tokenizer)
        write_shard(folder, 1, rows[-1:], [], facts, tokenizer)
        finish(folder)
        return folder

    return make


@pytest.fixture
def tiny_lm() -> Callable[[CodecTokenizer], CodeLM]:
    """`tiny_lm(tokenizer)`: with random weights that are large enough for it to have opinions."""

    def tiny(tokenizer: CodecTokenizer) -> CodeLM:
        config = TransformerConfig(hidden_size=16, layers=2, heads=2, feed_forward=32, max_steps=64)
        lm = build_lm(config, tokenizer).eval()
        with torch.no_grad():
            for weights in lm.parameters():
                weights.mul_(3)
        return lm

    return tiny
