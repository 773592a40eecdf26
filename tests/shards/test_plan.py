"""What was to be tokenized, as it stands on disk."""

from itertools import islice
from pathlib import Path

import pytest

from codec.corpora.place import File
from codec.corpora.recording import Recording
from codec.shards.plan import first_difference, plan_sha256, read_plan, shard_offsets, write_plan
from codec.whole import checksum

RECORDINGS = [Recording(f"{number}", "ä" * number, None, None, File(f"/{number}")) for number in range(7)]


def test_every_shard_is_found_at_its_offset(tmp_path: Path) -> None:
    write_plan(tmp_path, RECORDINGS)
    sha256 = plan_sha256(RECORDINGS)
    assert sha256 == checksum(tmp_path / "plan.jsonl")
    for size in (1, 3, 7, 10):
        offsets = shard_offsets(tmp_path, sha256, size)
        shards = [list(islice(read_plan(tmp_path, offset), size)) for offset in offsets]
        assert shards == [RECORDINGS[begin : begin + size] for begin in range(0, 7, size)]


def test_another_plan_than_that_of_the_job_is_refused(tmp_path: Path) -> None:
    write_plan(tmp_path, RECORDINGS[1:])
    with pytest.raises(
        ValueError, match=r"plan.jsonl: must be the plan of the job, with the SHA-256 .*; got .*Delete it"
    ):
        shard_offsets(tmp_path, plan_sha256(RECORDINGS), 2)


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    for content in (b"{}\n", b"[]\n", b"\xff\n", b"\n"):
        (tmp_path / "plan.jsonl").write_bytes(content)
        for read in (lambda: list(read_plan(tmp_path)), lambda: first_difference(tmp_path, RECORDINGS)):
            with pytest.raises(ValueError, match=r"recording must be|can't decode"):
                read()
