"""The codes of a finished corpus, as one sequence."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codec.shards import CodecFacts, CodesFiles, Row
from codec.shards.parquet import write_rows

MakeRows = Callable[..., list[Row]]


def test_all_clips_are_there_in_order(corpus: Path, made_up_rows: MakeRows, facts: CodecFacts) -> None:
    codes = CodesFiles(corpus)
    rows = made_up_rows(73)
    assert codes.facts == facts
    assert len(codes) == 73
    for index in [72, 0, 69, 70, 63, 64, -1, -73]:
        assert codes[index].dtype == np.int64
        np.testing.assert_array_equal(codes[index], rows[index].codes)
    assert [codes.row(index).transcript for index in range(73)] == [row.transcript for row in rows]
    assert len(list(codes)) == 73


def test_it_can_be_sent_to_other_processes_and_takes_no_codes_along(corpus: Path) -> None:
    codes = CodesFiles(corpus)
    assert codes[3].size
    sent = pickle.dumps(codes)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[3], codes[3])


def test_a_corpus_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest.json; codec tokenize writes it when all shards are there"):
        CodesFiles(tmp_path)


def test_a_shard_that_is_not_the_one_of_the_manifest_is_refused(
    corpus: Path, made_up_rows: MakeRows, facts: CodecFacts
) -> None:
    path = corpus / "shard-00002.parquet"
    write_rows(path, made_up_rows(3), replace(facts, fingerprint="another"))
    with pytest.raises(ValueError, match=r"shard-00002.parquet: must hold codes of .*; got .*another"):
        CodesFiles(corpus)[-1]
    shutil.copy(corpus / "shard-00000.parquet", path)
    with pytest.raises(ValueError, match=r"shard-00002.parquet: must have 3 rows, as the manifest says; got 70"):
        CodesFiles(corpus)[-1]
