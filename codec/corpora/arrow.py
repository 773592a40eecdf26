"""Tables with an audio column, as Hugging Face `datasets` has them: in Parquet files, and saved with `save_to_disk`.

An audio column holds, in each row, the bytes of an audio file or its path. They are not looked at until a row is
opened; the tables are not converted or copied.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from itertools import accumulate, islice, repeat
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from codec.audio import AudioFileError
from codec.corpora.fields import find_name, to_text
from codec.corpora.spool import Spool

if TYPE_CHECKING:
    import datasets
    import pyarrow
    import pyarrow.parquet

CACHED_FILES = 8
# Of a Parquet file, a row alone cannot be read, and `datasets` makes groups of rows of up to 100 MB. Groups of so many
# bytes are kept, so that a few hundred recordings in a row can be opened in any order. They are kept on disk: a process
# for each core does so.
SPOOLED_BYTES = 1 << 30
# What of a group is in memory at a time.
BATCH_ROWS = 16
READ_BYTES = 1 << 20

_spool = Spool(SPOOLED_BYTES)


class Row(NamedTuple):
    """What a row says of its recording.

    Attributes:
        number: From 0.
        id: None: there is no such column, or it does not tell all rows of the table apart.
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
        return Rows(column, _rows(table, file.metadata.num_rows))


def list_paths(path: str, name: str) -> list[str] | None:
    """List the paths that audio columns of a Parquet file hold.

    Args:
        path: The file.
        name: What errors call it.

    Returns:
        Relative to the folder of the file, or absolute. None: it has no such column.

    Raises:
        AudioFileError: It cannot be read.
    """
    with _arrow_errors(name):
        file = _open_parquet(path)
        candidates = _audio_columns(file.schema_arrow)
        table = file.read(columns=[f"{column}.path" for column in candidates])
        cells = (cell for column in table.columns for cell in column.to_pylist())
        return [cell["path"] for cell in cells if cell and cell["path"]] if candidates else None


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
        return Rows(column, _rows(table, len(dataset)))


def read_parquet_row(path: str, column: str, row: int, name: str) -> Any:
    """Read what one row of a Parquet file holds in one column; see `list_parquet`."""
    with _arrow_errors(name):
        starts = _group_starts(path)
        _check_row(row, starts[-1], name)
        group = bisect_right(starts, row) - 1
        return _spool.read((path, column, group), row - starts[group], partial(_cells, path, column, group))


def read_dataset_row(folder: str, column: str, row: int, name: str) -> Any:
    """Read what one row of a saved data set holds in one column; see `list_dataset`."""
    with _arrow_errors(name):
        dataset = _load_dataset(folder, column)
        _check_row(row, len(dataset), name)
        return dataset[row][column][0].as_py()


@lru_cache(maxsize=CACHED_FILES)
def _open_parquet(path: str) -> "pyarrow.parquet.ParquetFile":
    return _require("pyarrow.parquet").ParquetFile(path, buffer_size=READ_BYTES)


@lru_cache(maxsize=CACHED_FILES)
def _group_starts(path: str) -> list[int]:
    """The first row of each group, and how many rows there are."""
    metadata = _open_parquet(path).metadata
    return list(accumulate((metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)), initial=0))


def _cells(path: str, column: str, group: int) -> Iterator[Any]:
    batches = _open_parquet(path).iter_batches(BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False)
    return (cell for batch in batches for cell in batch.column(0).to_pylist())


@lru_cache(maxsize=CACHED_FILES)
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
    """The audio column, or of several the one of that name."""
    candidates = _audio_columns(schema)
    if len(candidates) > 1 and "audio" in candidates:
        return "audio"
    if len(candidates) != 1:
        raise ValueError(f"{name} must have one audio column (of bytes and path); its columns are {_listed(schema)}")
    return candidates[0]


def _audio_columns(schema: "pyarrow.Schema") -> list[str]:
    """What `datasets` says is audio; where it says nothing, columns of bytes and paths, as it writes audio."""
    said = (schema.metadata or {}).get(b"huggingface")
    features = (json.loads(said).get("info") or {}).get("features") or {} if said else {}
    kinds = {key: feature.get("_type") for key, feature in features.items() if isinstance(feature, dict)}
    types = import_module("pyarrow").types
    return [
        field.name
        for field in schema
        if types.is_struct(field.type)
        and {"bytes", "path"} <= {part.name for part in field.type}
        and kinds.get(field.name, "Audio") == "Audio"
    ]


def _listed(schema: "pyarrow.Schema") -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _text_columns(names: Iterable[str]) -> list[str]:
    found = (find_name(names, field) for field in ("id", "speaker", "transcript"))
    return [name for name in found if name is not None]


def _rows(table: "pyarrow.Table | None", num_rows: int) -> Iterator[Row]:
    ids, speakers, transcripts = (islice(_texts(table, field), num_rows) for field in ("id", "speaker", "transcript"))
    return map(Row, range(num_rows), _unique(list(ids)), speakers, transcripts)


def _unique(ids: list[str | None]) -> list[str | None]:
    """Ids; none of them where one is lacking or there twice."""
    return [None] * len(ids) if None in ids or len(set(ids)) < len(ids) else ids


def _texts(table: "pyarrow.Table | None", field: str) -> Iterator[str | None]:
    column = None if table is None else find_name(table.column_names, field)
    if table is None or column is None:
        return repeat(None)
    return (to_text(value) for batch in table[column].chunks for value in _values(batch))


def _values(batch: "pyarrow.Array") -> list[Any]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        cells = batch.cast("large_binary").to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in cells]


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
