"""Rows <-> Parquet files, and what `datasets` makes of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from codec.shards import CodecFacts, Row
from codec.shards.parquet import ROWS_PER_GROUP, SCHEMA, RowsFile, read_rows, write_rows

MakeRows = Callable[..., list[Row]]

LOAD = """
import json, sys
from datasets import load_dataset
folder, cache = sys.argv[1:]
files = load_dataset("parquet", data_files=f"{folder}/shard-*.parquet", cache_dir=cache)["train"]
card = load_dataset(folder, cache_dir=cache)["train"]
print(json.dumps({"kinds": str(files.features["codes"]), "files": list(files), "card": list(card)}))
"""


def same(first: Sequence[Row], second: Sequence[Row]) -> bool:
    plain = [[row._replace(codes=(row.codes.dtype, row.codes.tolist())) for row in rows] for rows in (first, second)]
    return plain[0] == plain[1]


@pytest.mark.parametrize("count", [0, 1, ROWS_PER_GROUP, ROWS_PER_GROUP + 1])
def test_rows_come_back(tmp_path: Path, facts: CodecFacts, count: int, made_up_rows: MakeRows) -> None:
    rows = made_up_rows(count)
    write_rows(tmp_path / "a.parquet", iter(rows), facts)
    assert same(list(read_rows(tmp_path / "a.parquet")), rows)
    file = RowsFile(tmp_path / "a.parquet")
    assert (file.facts, file.num_rows, file.num_groups) == (facts, count, -(-count // ROWS_PER_GROUP))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, facts: CodecFacts, made_up_rows: MakeRows) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / name, made_up_rows(100), facts)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a").read_bytes()


def test_codes_take_their_bits_on_disk(tmp_path: Path, facts: CodecFacts) -> None:
    codes = np.random.default_rng(0).integers(0, 1024, (8, 50_000)).astype(np.uint16)
    facts = replace(facts, num_quantizers=8, codebook_size=1024)
    write_rows(tmp_path / "a", [Row("a", "a", codes, 1000.0)], facts)
    assert (tmp_path / "a").stat().st_size < 1.03 * codes.size * 10 / 8


def test_all_16_bits_of_a_code_come_back(tmp_path: Path, facts: CodecFacts) -> None:
    row = Row("a", "a", np.arange(1 << 16, dtype=np.uint16).reshape(2, -1), 1.0)
    write_rows(tmp_path / "a", [row], replace(facts, codebook_size=1 << 16))
    assert same(list(read_rows(tmp_path / "a")), [row])


def test_datasets_reads_the_shards_as_they_are(corpus: Path, tmp_path: Path, made_up_rows: MakeRows) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-W", "error::UserWarning", "-c", LOAD, str(corpus), str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    expected = [
        {**row._asdict(), "codes": row.codes.reshape(-1).tolist(), "shape": list(row.codes.shape)}
        for row in made_up_rows(73)
    ]
    assert loaded["files"] == loaded["card"] == expected
    assert "uint16" in loaded["kinds"]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 3), dtype=np.int64), r"codes of a must be uint16 of shape \[2, frames\]; got int64 \[2, 3\]"),
        (np.zeros((3, 2), dtype=np.uint16), r"got uint16 \[3, 2\]"),
        (np.zeros(2, dtype=np.uint16), r"got uint16 \[2\]"),
        (np.full((2, 1), 6, dtype=np.uint16), "codes of a must be below 6; got 6"),
    ],
)
def test_codes_that_do_not_fit_are_refused(tmp_path: Path, facts: CodecFacts, codes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_rows(tmp_path / "a", [Row("a", "a", codes, 1.0)], facts)
    assert list(tmp_path.iterdir()) == []


def write_table(path: Path, facts: CodecFacts, schema: pyarrow.Schema = SCHEMA, **changes: Any) -> None:
    """A file of one row, with columns changed."""
    columns = {"id": "a", "source": "a", "codes": [1, 2, 3, 4], "shape": [2, 2], "duration": 1.0, **changes}
    table = pyarrow.Table.from_pylist([columns], schema)
    parquet.write_table(table.replace_schema_metadata(facts.to_metadata()), path)


DAMAGES: list[tuple[Callable[[Path, CodecFacts], object], str]] = [
    (lambda path, facts: path.write_bytes(b"no Parquet"), "not a Parquet file of codes that can be read: "),
    (lambda path, facts: None, "not a Parquet file of codes that can be read: "),
    (lambda path, facts: write_table(path, facts, shape=[2, 3]), r"shape of row 0 must be .* 4 codes; got \[2, 3\]"),
    (lambda path, facts: write_table(path, facts, shape=[-2, -2]), r"got \[-2, -2\]"),
    (lambda path, facts: write_table(path, facts, shape=[4]), r"got \[4\]"),
    (lambda path, facts: write_table(path, facts, id=None), "id must be there in every row; it lacks in 1"),
    (
        lambda path, facts: write_table(path, facts, codes=[1, None, 2, 3]),
        "codes must all be numbers; there are nulls among them",
    ),
    (lambda path, facts: write_table(path, facts, SCHEMA.remove(0)), "columns must be those of codec tokenize; got so"),
    (lambda path, facts: parquet.write_table(SCHEMA.empty_table(), path), "format_version must be 1; got None"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_file_that_holds_no_rows_is_refused(
    tmp_path: Path, facts: CodecFacts, damage: Callable[[Path, CodecFacts], object], message: str
) -> None:
    damage(tmp_path / "a", facts)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / "a"))


def test_other_groups_of_rows_are_refused(tmp_path: Path, facts: CodecFacts, made_up_rows: MakeRows) -> None:
    write_rows(tmp_path / "a", made_up_rows(5), facts)
    parquet.write_table(parquet.read_table(tmp_path / "a"), tmp_path / "b", row_group_size=2)
    with pytest.raises(ValueError, match=r"row groups must have 64 rows, the last one the rest; got \[2, 2, 1\]"):
        RowsFile(tmp_path / "b")


def test_a_flipped_bit_is_an_error_or_changes_nothing(
    tmp_path: Path, facts: CodecFacts, made_up_rows: MakeRows
) -> None:
    rows = made_up_rows(80)
    write_rows(tmp_path / "a", rows, facts)
    whole = (tmp_path / "a").read_bytes()
    begin = whole.index(b"PAR1") + 4
    for place in range(begin, begin + 2000, 97):
        (tmp_path / "b").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert same(list(read_rows(tmp_path / "b")), rows)
        except ValueError as error:
            if "not a Parquet file of codes that can be read" not in str(error):
                raise
