"""A small corpus of made-up codes, finished."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codec.shards import BadClip, CodecFacts, Row, finish, write_shard
from codec.tokens import CodecTokenizer


@pytest.fixture
def facts() -> CodecFacts:
    return CodecFacts("tiny", "0123456789abcdef", 16_000, 12.5, 6, 2)


@pytest.fixture
def made_up_rows() -> Callable[..., list[Row]]:
    """`made_up_rows(count, first=0)`: with 0 to 6 frames of 2 stages; some speakers and transcripts are known."""
    return _rows


def _rows(count: int, first: int = 0) -> list[Row]:
    return [
        Row(
            id=f"clip/{index}",
            source=f"corpus/clip/{index}.flac",
            codes=np.random.default_rng(index).integers(0, 6, (2, index % 7)).astype(np.uint16),
            duration=index % 7 / 12.5 + 0.01,
            speaker=f"{index % 3}" if index % 2 else None,
            transcript="LOS GEHT'S, ÄHM" if index % 3 else None,
        )
        for index in range(first, first + count)
    ]


@pytest.fixture
def make_corpus(tmp_path: Path, facts: CodecFacts) -> Callable[..., Path]:
    """Finished corpora of three shards (70 clips, none, 3) with one bad clip, in folders of their own."""

    def make(name: str = "corpus", pattern: str = "flatten") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        tokenizer = CodecTokenizer(2, 6, pattern, extras=["speaker"], fingerprint=facts.fingerprint)
        tokenizer.save_pretrained(folder)
        bad = [BadClip("clip/x", "corpus/clip/x.flac", "not audio: \ud800")]
        write_shard(folder, 0, _rows(70), [], facts, tokenizer)
        write_shard(folder, 1, [], bad, facts, tokenizer)
        write_shard(folder, 2, _rows(3, first=70), [], facts, tokenizer)
        finish(folder)
        return folder

    return make


@pytest.fixture
def corpus(make_corpus: Callable[..., Path]) -> Path:
    return make_corpus()
