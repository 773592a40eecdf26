"""What is in a finished corpus."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from codec.shards import CodecFacts, Row, finish, load_manifest
from codec.shards.manifest import ShardEntry
from codec.shards.parquet import write_rows
from codec.shards.record import load_record, write_record
from codec.whole import checksum


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_counts_what_all_shards_hold(corpus: Path, facts: CodecFacts) -> None:
    manifest = load_manifest(corpus)
    assert manifest == finish(corpus)
    assert (manifest.codec, manifest.clips, manifest.frames, manifest.errors) == (facts, 73, 213, 1)
    assert manifest.seconds == 17.77
    assert manifest.shards[1] == ShardEntry("shard-00001", 0, 0.0, 0, 1)


def test_it_has_the_sum_of_every_file_but_the_card(corpus: Path) -> None:
    files = {file.name: (file.size, file.sha256) for file in load_manifest(corpus).files}
    expected = {path.name: (path.stat().st_size, checksum(path)) for path in corpus.iterdir()}
    assert {**files, "manifest.json": expected["manifest.json"], "README.md": expected["README.md"]} == expected
    assert len(files) == 14


def test_errors_are_listed_a_line_each(corpus: Path) -> None:
    lines = (corpus / "errors.jsonl").read_text().splitlines()
    bad = {"id": "clip/x", "source": "corpus/clip/x.flac", "problem": "not audio: \ud800"}
    assert [json.loads(line) for line in lines] == [bad]


def test_whoever_finishes_writes_the_same(make_corpus: Callable[..., Path]) -> None:
    one, two = make_corpus("one"), make_corpus("two")
    assert contents(one) == contents(two)
    for name in ("manifest.json", "errors.jsonl", "README.md"):
        (two / name).unlink()
        finish(two)
        assert contents(one) == contents(two)


def test_a_card_that_was_edited_stays_until_the_corpus_changes(corpus: Path) -> None:
    (corpus / "README.md").write_text("mine")
    finish(corpus)
    assert (corpus / "README.md").read_text() == "mine"
    (corpus / "plan.jsonl").write_text("")
    assert "plan.jsonl" in [file.name for file in finish(corpus).files]
    assert (corpus / "README.md").read_text() != "mine"


def test_no_shard_may_be_unfinished(corpus: Path, tmp_path: Path) -> None:
    (corpus / "shard-00001.json").unlink()
    with pytest.raises(ValueError, match="must have all shards up to 2; shard-00001 is not finished"):
        finish(corpus)
    with pytest.raises(ValueError, match="has no finished shard"):
        finish(tmp_path)


def test_all_shards_must_be_of_one_codec(
    corpus: Path, facts: CodecFacts, made_up_rows: Callable[..., list[Row]]
) -> None:
    write_rows(corpus / "shard-00002.parquet", made_up_rows(3), replace(facts, model="another"))
    with pytest.raises(ValueError, match=r"shard-00002.parquet: must hold codes of .*, as shard-00000.parquet does"):
        finish(corpus)


def test_counts_must_be_of_all_stages_and_codes(corpus: Path) -> None:
    write_record(corpus, replace(load_record(corpus, 1), counts=((0,) * 6, (0,) * 5)))
    with pytest.raises(ValueError, match=r"shard-00001.json: must have counts of 2 stages of 6 codes"):
        finish(corpus)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 2, "manifest.json: format_version must be 1; got 2"),
        ("clips", "many", "manifest.json: clips must be int; got 'many'"),
        ("files", [{"name": "../a", "size": 0, "sha256": ""}], "files must be in the folder itself; got ../a"),
        (
            "shards",
            [{"name": "shard-00000", "clips": -1, "seconds": 0, "frames": 0, "errors": 0}],
            "shard 0 must be shard-00000, with 0 clips or more; got",
        ),
        (
            "shards",
            [{"name": "../shard", "clips": 0, "seconds": 0, "frames": 0, "errors": 0}],
            "shard 0 must be shard-00000, with 0 clips or more; got",
        ),
    ],
)
def test_a_damaged_manifest_is_refused(corpus: Path, key: str, value: object, message: str) -> None:
    path = corpus / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), key: value}))
    with pytest.raises(ValueError, match=message):
        load_manifest(corpus)
