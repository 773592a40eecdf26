"""One shard with all of its files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.shards import BadClip, CodecFacts, Row, write_shard
from codec.shards.record import FileSum, finished_shards, load_record
from codec.tokens import CodecTokenizer

MakeRows = Callable[..., list[Row]]


def test_a_record_says_what_is_in_the_shard(tmp_path: Path, facts: CodecFacts) -> None:
    codes = np.array([[0, 1, 1], [5, 5, 5]], dtype=np.uint16)
    rows = [Row("a", "a.wav", codes, 0.1), Row("b", "b.wav", codes[:, :1], 0.2), Row("c", "c.wav", codes[:, :0], 0.3)]
    bad = BadClip("x", "x.wav", "not audio")
    record = write_shard(tmp_path, 4, rows, [bad], facts, CodecTokenizer(2, 6))
    names = ["shard-00004.parquet", "shard-00004.bin", "shard-00004.idx"]
    assert [file.name for file in record.files] == names
    assert record.files == tuple(FileSum.of(tmp_path / name) for name in names)
    assert (record.index, record.clips, record.frames, record.errors) == (4, 3, 4, (bad,))
    assert record.seconds == 0.6  # 0.1 + 0.2 + 0.3 is a little more
    assert record.counts == ((2, 2, 0, 0, 0, 0), (0, 0, 0, 0, 0, 4))
    assert load_record(tmp_path, 4) == record


def test_a_shard_that_cannot_be_written_is_not_finished(
    tmp_path: Path, facts: CodecFacts, made_up_rows: MakeRows
) -> None:
    with pytest.raises(ValueError, match="codes of clip/1 must be below 2; got"):
        write_shard(tmp_path, 0, made_up_rows(9), [], replace(facts, codebook_size=2), CodecTokenizer(2, 6))
    with pytest.raises(ValueError, match="stages"):
        write_shard(tmp_path, 0, made_up_rows(9), [], facts, CodecTokenizer(3, 6))
    assert finished_shards(tmp_path) == []


def test_made_again_it_has_the_same_bytes(tmp_path: Path, facts: CodecFacts, made_up_rows: MakeRows) -> None:
    contents = []
    for _ in range(2):
        write_shard(tmp_path, 0, made_up_rows(70), [], facts, CodecTokenizer(2, 6))
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4
