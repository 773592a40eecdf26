"""Whether a corpus on disk is what was written, and makes sense."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from codec.corpora.place import File
from codec.corpora.recording import Recording
from codec.shards import CodecFacts, Row, finish, verify, write_shard
from codec.shards.check import damaged_shards
from codec.shards.job import Job
from codec.shards.plan import plan_sha256, write_plan
from codec.shards.record import FileSum, load_record, write_record
from codec.tokens import CodecTokenizer

MakeRows = Callable[..., list[Row]]


def rewrite(folder: Path, index: int, **changes: object) -> None:
    """Change a record, and finish the corpus as if the record were right: all sums fit."""
    record = load_record(folder, index)
    files = tuple(FileSum.of(folder / file.name) for file in record.files)
    write_record(folder, replace(record, files=files, **changes))
    finish(folder)


@pytest.mark.parametrize("pattern", ["flatten", "delay"])
def test_a_whole_corpus_has_no_problems(make_corpus: Callable[..., Path], pattern: str) -> None:
    folder = make_corpus(pattern=pattern)
    assert verify(folder) == []
    (folder / "README.md").write_text("edited")
    (folder / ".gitattributes").touch()
    assert verify(folder) == []


def test_every_file_that_lacks_or_changed_or_is_surplus_is_named(corpus: Path) -> None:
    (corpus / "shard-00000.bin").unlink()
    content = (corpus / "shard-00000.parquet").read_bytes()
    (corpus / "shard-00000.parquet").write_bytes(content[:-1] + b"?")
    (corpus / "shard-00002.idx").write_bytes(b"short")
    (corpus / "shard-00003.parquet").touch()
    (corpus / "README.md").unlink()
    problems = verify(corpus)
    expected = {
        "shard-00000.bin: is lacking",
        "shard-00000.parquet: has changed: its SHA-256 must be",
        "shard-00002.idx: must have 56 bytes; got 5",
        "shard-00003.parquet: does not belong to the corpus",
        "README.md: is lacking",
    }
    assert len(problems) == len(expected)
    assert all(any(f"{corpus}/{text}" in problem for problem in problems) for text in expected)


def test_a_corpus_that_is_not_finished_is_a_problem(tmp_path: Path) -> None:
    assert [problem.split("; ")[0] for problem in verify(tmp_path)] == [f"{tmp_path}: has no manifest.json"]


@pytest.mark.parametrize("name", ["clips", "seconds", "shards"])
def test_a_manifest_that_says_another_thing_than_the_records_is_a_problem(corpus: Path, name: str) -> None:
    path = corpus / "manifest.json"
    table = json.loads(path.read_bytes())
    path.write_text(json.dumps({**table, name: [table["shards"][0]] if name == "shards" else 5}))
    assert verify(corpus)[0] == f"{path}: {name} must be those of the records of all shards"


@pytest.mark.parametrize(("name", "value"), [("frames", 4), ("seconds", 1.5), ("counts", ((1,) * 6,) * 2)])
def test_counts_that_do_not_fit_the_codes_are_a_problem(corpus: Path, name: str, value: object) -> None:
    rewrite(corpus, 2, **{name: value})
    assert verify(corpus) == [f"{corpus}/shard-00002.parquet: {name} must be as the record says"]


def test_errors_that_the_records_do_not_list_are_a_problem(corpus: Path) -> None:
    rewrite(corpus, 1)
    (corpus / "errors.jsonl").write_bytes(b"")
    path = corpus / "manifest.json"
    table = json.loads(path.read_bytes())
    empty = {"name": "errors.jsonl", "size": 0, "sha256": FileSum.of(corpus / "errors.jsonl").sha256}
    table["files"] = [empty if file["name"] == "errors.jsonl" else file for file in table["files"]]
    path.write_text(json.dumps(table))
    assert verify(corpus) == [
        f"{corpus}/errors.jsonl: must list the clips without a row, as the records of all shards do"
    ]


def test_codes_out_of_range_are_a_problem(corpus: Path, made_up_rows: MakeRows, facts: CodecFacts) -> None:
    rows = made_up_rows(3, first=70)
    rows[0] = rows[0]._replace(codes=np.full((2, 1), 6, dtype=np.uint16))
    write_shard(corpus, 2, rows, [], replace(facts, codebook_size=7), CodecTokenizer(2, 7))
    # The schema claims 6 codes, as the other shards do.
    path = corpus / "shard-00002.parquet"
    relabel(path, facts)
    rewrite(corpus, 2, counts=((0,) * 6,) * 2)
    assert verify(corpus) == [f"{path}: clip/70: codes must be below 6; got 6"]


def test_tokens_of_other_codes_are_a_problem(corpus: Path, made_up_rows: MakeRows, facts: CodecFacts) -> None:
    write_shard(corpus, 2, made_up_rows(3, first=70), [], facts, CodecTokenizer(2, 6, "coarse_first"))
    finish(corpus)
    assert verify(corpus) == [f"{corpus}/shard-00002.parquet: clip/70: its tokens must be those of its codes"]


def test_a_tokenizer_of_another_codec_is_a_problem(corpus: Path) -> None:
    CodecTokenizer(2, 6, extras=["speaker"], fingerprint="another").save_pretrained(corpus)
    finish(corpus)
    assert verify(corpus) == [f"{corpus}: tokens must be of the codec 0123456789abcdef; got another"]


def test_a_file_that_neither_is_there_nor_in_the_manifest_is_a_problem(corpus: Path) -> None:
    path = corpus / "manifest.json"
    table = json.loads(path.read_bytes())
    table["files"] = [file for file in table["files"] if file["name"] != "errors.jsonl"]
    path.write_text(json.dumps(table))
    (corpus / "errors.jsonl").unlink()
    assert verify(corpus) == [f"{corpus}/errors.jsonl: cannot be read: No such file or directory"]


def test_a_clip_that_is_there_twice_is_a_problem(corpus: Path, made_up_rows: MakeRows, facts: CodecFacts) -> None:
    write_shard(corpus, 2, made_up_rows(3, first=68), [], facts, CodecTokenizer(2, 6))
    finish(corpus)
    assert verify(corpus) == [
        f"{corpus}/shard-00002.json: has too many: 2 of its recordings, the first of them clip/68"
    ]


def planned(*others: str) -> list[Recording]:
    """What is in the corpus, in its order, and others after it."""
    ids = [*(f"clip/{index}" for index in range(70)), "clip/x", *(f"clip/{index}" for index in range(70, 73)), *others]
    return [Recording(id, id, None, None, File(id)) for id in ids]


def test_recordings_of_the_plan_must_be_there(corpus: Path) -> None:
    write_plan(corpus, planned())
    finish(corpus)
    assert verify(corpus) == []
    write_plan(corpus, planned("clip/y"))
    finish(corpus)
    assert verify(corpus) == [f"{corpus}: lacks 1 of its recordings, the first of them clip/y"]
    write_plan(corpus, [planned("clip/y")[-1], *planned()[1:]])
    finish(corpus)
    path = f"{corpus}/shard-00000.json"
    assert verify(corpus) == [
        f"{path}: lacks 1 of its recordings, the first of them clip/y",
        f"{path}: has too many: 1 of its recordings, the first of them clip/0",
    ]


def test_a_job_that_is_not_that_of_the_plan_and_the_manifest_is_a_problem(corpus: Path, facts: CodecFacts) -> None:
    write_plan(corpus, planned())
    job = Job(facts, "flatten", False, ("speaker",), 25, 60.0, 74, plan_sha256(planned()))
    finish_with(corpus, job)
    assert verify(corpus) == []
    changed = replace(
        job, codec=replace(facts, model="another"), shard_size=40, num_recordings=75, plan_sha256="0" * 64
    )
    finish_with(corpus, changed)
    plan, *others = verify(corpus)
    assert plan.startswith(f"{corpus}/plan.jsonl: must be the plan of job.json, with the SHA-256 {'0' * 64}; got ")
    assert [problem.split(", ")[0] for problem in others] == [
        f"{corpus}/job.json: {name} must be those of manifest.json" for name in ("codec", "shards", "recordings")
    ]
    assert damaged_shards([plan, *others]) == []


def finish_with(folder: Path, job: Job) -> None:
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    finish(folder)


def test_damaged_shards_are_those_of_which_something_is_wrong(corpus: Path) -> None:
    for name in ("shard-00000.bin", "shard-00002.json"):
        content = (corpus / name).read_bytes()
        (corpus / name).write_bytes(content[:-1] + b"?")
    (corpus / "shard-00003.parquet").touch()
    (corpus / "errors.jsonl").unlink()
    assert damaged_shards(verify(corpus)) == ["shard-00000", "shard-00002"]


def relabel(path: Path, facts: CodecFacts) -> None:
    """Let a Parquet file say that it holds codes of another codec."""
    from pyarrow import parquet

    table = parquet.read_table(path).replace_schema_metadata(facts.to_metadata())
    parquet.write_table(table, path)
