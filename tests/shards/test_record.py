"""The record of a finished shard."""

from pathlib import Path

import pytest

from codec.shards import BadClip, ShardRecord
from codec.shards.record import (
    FileSum,
    finished_shards,
    forget_shard,
    is_finished,
    load_record,
    record_path,
    write_record,
)

RECORD = ShardRecord(
    index=7,
    clips=1,
    seconds=0.1,
    frames=2,
    files=(FileSum("shard-00007.bin", 3, "abc"),),
    errors=(BadClip("a", "ä/a.wav", "no\naudio \udcff"),),
    counts=((2, 0), (1, 1)),
)


def test_a_record_comes_back_and_says_that_its_shard_is_finished(tmp_path: Path) -> None:
    (tmp_path / "shard-00008.parquet").touch()
    for name in (".shard-00009.json.0.part", "shard-x1.json", "shard-1.json", "shard-00009.json.bak"):
        (tmp_path / name).touch()
    assert finished_shards(tmp_path) == []
    write_record(tmp_path, RECORD)
    assert finished_shards(tmp_path) == [7]
    assert load_record(tmp_path, 7) == RECORD


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for index in (100_000, 99_999, 0):
        record_path(tmp_path, index).touch()
    assert finished_shards(tmp_path) == [0, 99_999, 100_000]


def test_a_shard_is_finished_while_its_files_have_the_sizes_of_the_record(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert not is_finished(tmp_path, 7)
    for content, finished in ((b"abc", True), (b"ab", False), (b"abcd", False), (b"abx", True)):
        (tmp_path / "shard-00007.bin").write_bytes(content)
        assert is_finished(tmp_path, 7) == finished
    forget_shard(tmp_path, 7)
    assert not is_finished(tmp_path, 7)
    record_path(tmp_path, 7).write_bytes(b"{")
    assert not is_finished(tmp_path, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "shard-00000.json: cannot be read: No such file or directory"),
        (b"{", "shard-00000.json: not JSON: "),
        (b"\xff", "shard-00000.json: not JSON: "),
        (b"[" * 100_000, "shard-00000.json: not JSON: "),
        (b"[]", "must hold a JSON object; got list"),
        (b'{"index": 0}', "setting clips must be given"),
        (b'{"index": "0"}', "setting clips must be given"),
        (
            b'{"index": 1, "clips": 0, "seconds": 0, "frames": 0, "files": [], "errors": [], "counts": []}',
            "index must be 0; got 1",
        ),
        (
            b'{"index": 0, "clips": 0, "seconds": 0, "frames": 0, "files": [], "errors": [], "counts": [[1, "2"]]}',
            r"counts\[0\]\[1\] must be int; got '2'",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        record_path(tmp_path, 0).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_record(tmp_path, 0)
