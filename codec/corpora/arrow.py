"""Tables with an audio column, as Hugging Face `datasets` has them: in Parquet files, and saved with `save_to_disk`.

An audio column holds, in each row, the bytes of an audio file or its path. They are not looked at until a row is
opened; the tables are not converted or copied.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from itertools import accumulate, repeat
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from codec.audio import AudioFileError
from codec.corpora.fields import find_name, to_text

if TYPE_CHECKING:
    import datasets
    import pyarrow
    import pyarrow.parquet

# Of a Parquet file, a row alone cannot be read. So many groups of them stay in memory, so that a few hundred recordings
# in a row can be opened in any order; `datasets` makes groups of about 100 rows of audio.
CACHED_GROUPS = 8


class Row(NamedTuple):
    """What a row says of its recording.

    Attributes:
        number: From 0.
        id: None: there is no such column.
        speaker: None: unknown.
        transcript: None: unknown.
    """

    number: int
    id: str | None
    speaker: str | None
    transcript: str | None


class Rows(NamedTuple):
    """All rows of a table, and the name of its audio column."""

    column: str
    rows: Iterator[Row]


def list_parquet(path: str, name: str) -> Rows:
    """List the rows of a Parquet file.

    Args:
        path: The file.
        name: What errors call it.

    Raises:
        AudioFileError: It cannot be read.
        ValueError: It has no audio column.
    """
    with _arrow_errors(name):
        file = _open_parquet(path)
        column = _audio_column(file.schema_arrow, name)
        table = file.read(columns=_text_columns(file.schema_arrow.names))
        return Rows(column, _rows(table, file.metadata.num_rows, name))


def list_dataset(folder: str, name: str) -> Rows:
    """List the rows of a data set, or of the one split of it, that `save_to_disk` wrote.

    Args:
        folder: Where it lies.
        name: What errors call it.

    Raises:
        AudioFileError: It cannot be read.
        ValueError: It has no audio column.
    """
    with _arrow_errors(name):
        dataset = _load_dataset(folder)
        column = _audio_column(dataset.features.arrow_schema, name)
        names = _text_columns(dataset.column_names)
        table = dataset.select_columns(names)[:] if names else None
        return Rows(column, _rows(table, len(dataset), name))


def read_parquet_row(path: str, column: str, row: int, name: str) -> Any:
    """Read what one row of a Parquet file holds in one column; see `list_parquet`."""
    with _arrow_errors(name):
        metadata = _open_parquet(path).metadata
        _check_row(row, metadata.num_rows, name)
        ends = list(accumulate(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)))
        group = bisect_right(ends, row)
        return _read_group(path, column, group)[row - (ends[group - 1] if group else 0)].as_py()


def read_dataset_row(folder: str, column: str, row: int, name: str) -> Any:
    """Read what one row of a saved data set holds in one column; see `list_dataset`."""
    with _arrow_errors(name):
        dataset = _load_dataset(folder, column)
        _check_row(row, len(dataset), name)
        return dataset[row][column][0].as_py()


@lru_cache(maxsize=CACHED_GROUPS)
def _open_parquet(path: str) -> "pyarrow.parquet.ParquetFile":
    return _require("pyarrow.parquet").ParquetFile(path)


@lru_cache(maxsize=CACHED_GROUPS)
def _read_group(path: str, column: str, group: int) -> "pyarrow.ChunkedArray":
    return _open_parquet(path).read_row_group(group, columns=[column])[column]


@lru_cache(maxsize=CACHED_GROUPS)
def _load_dataset(folder: str, column: str | None = None) -> "datasets.Dataset":
    datasets = _require("datasets")
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        # As Arrow has it, in mapped memory: `datasets` itself would decode the audio.
        dataset = datasets.load_from_disk(folder, keep_in_memory=False).with_format("arrow")
        return dataset if column is None else dataset.select_columns([column])
    finally:
        if shown:
            datasets.enable_progress_bars()


def _audio_column(schema: "pyarrow.Schema", name: str) -> str:
    """The one that `datasets` says is audio; where it says nothing, the one of bytes and paths, as it writes audio."""
    said = (schema.metadata or {}).get(b"huggingface")
    features = (json.loads(said).get("info") or {}).get("features") or {} if said else {}
    kinds = {key: feature.get("_type") for key, feature in features.items() if isinstance(feature, dict)}
    types = import_module("pyarrow").types
    candidates = [
        field.name
        for field in schema
        if types.is_struct(field.type)
        and {"bytes", "path"} <= {part.name for part in field.type}
        and kinds.get(field.name, "Audio") == "Audio"
    ]
    if len(candidates) > 1 and "audio" in candidates:
        return "audio"
    if len(candidates) != 1:
        raise ValueError(f"{name} must have one audio column (of bytes and path); its columns are {_listed(schema)}")
    return candidates[0]


def _listed(schema: "pyarrow.Schema") -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _text_columns(names: Iterable[str]) -> list[str]:
    found = (find_name(names, field) for field in ("id", "speaker", "transcript"))
    return [name for name in found if name is not None]


def _rows(table: "pyarrow.Table | None", num_rows: int, name: str) -> Iterator[Row]:
    ids, speakers, transcripts = (_texts(table, field) for field in ("id", "speaker", "transcript"))
    has_ids = table is not None and find_name(table.column_names, "id") is not None
    for row in zip(range(num_rows), ids, speakers, transcripts, strict=False):
        if has_ids and row[1] is None:
            raise ValueError(f"{name}[{row[0]}]: id must be text or a whole number; it is neither")
        yield Row(*row)


def _texts(table: "pyarrow.Table | None", field: str) -> Iterator[str | None]:
    column = None if table is None else find_name(table.column_names, field)
    if table is None or column is None:
        return repeat(None)
    return (to_text(value) for batch in table[column].chunks for value in batch.to_pylist())


def _check_row(row: int, num_rows: int, name: str) -> None:
    if row >= num_rows:
        raise AudioFileError(f"{name}: is not there; the table has {num_rows} rows")


@contextmanager
def _arrow_errors(name: str) -> Iterator[None]:
    """Turn what Arrow and the system report in the block into an error of one line.

    Raises:
        AudioFileError: They reported something.
    """
    arrow_error = _require("pyarrow").ArrowException
    try:
        yield
    except (OSError, arrow_error) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else str(error).strip().split("\n")[0]
        raise AudioFileError(f"{name}: {reason}") from error


def _require(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        missing = package.split(".")[0]
        raise ImportError(f"{missing} must be installed for data sets: pip install 'rvq-codec[corpora]'") from error
