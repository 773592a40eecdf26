"""Rows <-> Parquet files that `datasets` and everything else reads as they are.

A file holds the same bytes for the same rows and version of pyarrow (which writes its name into the file): all options
are fixed here. Parquet keeps codes through a dictionary, in as many bits as there are different ones, so that 10-bit
codes take 10 bits.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from codec.shards.schema import CodecFacts, Row
from codec.whole import whole_file

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as error:
    raise ImportError("pyarrow must be installed for tokenized corpora: pip install 'rvq-codec[corpora]'") from error

SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("source", pyarrow.string()),
        # In C order: stage after stage.
        ("codes", pyarrow.list_(pyarrow.uint16())),
        ("shape", pyarrow.list_(pyarrow.int32())),
        ("duration", pyarrow.float64()),
        ("speaker", pyarrow.string()),
        ("transcript", pyarrow.string()),
    ]
)
# A group is what one access to a clip reads: some 100 kB.
ROWS_PER_GROUP = 64

_NULLABLE = {"speaker", "transcript"}
_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": False,
    "write_page_checksum": True,
}


def write_rows(path: Path, rows: Iterable[Row], facts: CodecFacts) -> None:
    """Write a Parquet file, or leave what was there.

    Args:
        path: Where.
        rows: At most `ROWS_PER_GROUP` of them are kept in memory.
        facts: Of the codec; what its codes are checked against.

    Raises:
        ValueError: Codes are of another type or shape, or out of range.
        OSError: It cannot be written.
    """
    remaining = iter(rows)
    schema = SCHEMA.with_metadata(facts.to_metadata())
    with whole_file(path) as partial, parquet.ParquetWriter(partial, schema, **_OPTIONS) as writer:
        while group := list(islice(remaining, ROWS_PER_GROUP)):
            writer.write_table(_to_table(group, facts, schema), row_group_size=ROWS_PER_GROUP)


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file in their order; one group of them is in memory at a time.

    Raises:
        ValueError: The file cannot be read, or is none that `write_rows` wrote.
    """
    file = RowsFile(path)
    for group in range(file.num_groups):
        yield from file.rows(group)


class RowsFile:
    """A Parquet file of rows, of which any group can be read.

    Args:
        path: Of the file.

    Attributes:
        facts: Of the codec whose codes it holds.
        num_rows: Of all groups.
        num_groups: Each has `ROWS_PER_GROUP` rows, but for the last, which has the rest.

    Raises:
        ValueError: The file cannot be read, or is none that `write_rows` wrote.
    """

    def __init__(self, path: Path):
        self.path = path
        with _named_errors(path):
            self._file = parquet.ParquetFile(path, page_checksum_verification=True)
            if not self._file.schema_arrow.equals(SCHEMA):
                columns = ", ".join(f"{field.name} {field.type}" for field in self._file.schema_arrow)
                raise ValueError(f"columns must be those of codec tokenize; got {columns}")
            metadata = self._file.schema_arrow.metadata or {}
            self.facts = CodecFacts.from_metadata({key.decode(): value.decode() for key, value in metadata.items()})
            self.num_rows: int = self._file.metadata.num_rows
            self.num_groups: int = self._file.num_row_groups
            self._check_groups()

    def rows(self, group: int) -> list[Row]:
        """Rows of a group.

        Raises:
            ValueError: They are damaged.
        """
        with _named_errors(self.path):
            return _to_rows(self._file.read_row_group(group, use_threads=False))

    def _check_groups(self) -> None:
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self.num_groups)]
        full, rest = divmod(self.num_rows, ROWS_PER_GROUP)
        if sizes != [ROWS_PER_GROUP] * full + [rest] * (rest > 0):
            raise ValueError(f"row groups must have {ROWS_PER_GROUP} rows, the last one the rest; got {sizes[:5]}...")


def _to_table(rows: list[Row], facts: CodecFacts, schema: pyarrow.Schema) -> pyarrow.Table:
    for row in rows:
        _check_codes(row, facts)
    ends = np.cumsum([0, *(row.codes.size for row in rows)])
    values = np.concatenate([row.codes.reshape(-1) for row in rows])
    columns = {
        "codes": pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), pyarrow.array(values)),
        "shape": [row.codes.shape for row in rows],
        "duration": [row.duration for row in rows],
    }
    for name in ("id", "source", "speaker", "transcript"):
        columns[name] = [getattr(row, name) for row in rows]
    return pyarrow.table({name: columns[name] for name in schema.names}, schema)


def _check_codes(row: Row, facts: CodecFacts) -> None:
    codes = row.codes
    if codes.dtype != np.uint16 or codes.ndim != 2 or codes.shape[0] != facts.num_quantizers:
        raise ValueError(
            f"codes of {row.id} must be uint16 of shape [{facts.num_quantizers}, frames]; "
            f"got {codes.dtype} {list(codes.shape)}"
        )
    if codes.size and codes.max() >= facts.codebook_size:
        raise ValueError(f"codes of {row.id} must be below {facts.codebook_size}; got {codes.max()}")


def _to_rows(table: pyarrow.Table) -> list[Row]:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    for name, column in columns.items():
        if column.null_count and name not in _NULLABLE:
            raise ValueError(f"{name} must be there in every row; it lacks in {column.null_count}")
    packed = columns.pop("codes")
    if packed.values.null_count:
        raise ValueError("codes must all be numbers; there are nulls among them")
    codes, bounds = packed.values.to_numpy(), packed.offsets.to_numpy()
    lists = {name: column.to_pylist() for name, column in columns.items()}
    rows = []
    for index, shape in enumerate(lists["shape"]):
        own = codes[bounds[index] : bounds[index + 1]]
        if len(shape) != 2 or min(shape) < 0 or shape[0] * shape[1] != own.size:
            raise ValueError(f"shape of row {index} must be that of its {own.size} codes; got {shape}")
        texts = {name: lists[name][index] for name in ("id", "source", "duration", "speaker", "transcript")}
        rows.append(Row(codes=own.reshape(shape), **texts))
    return rows


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    # Of Arrow's own errors, some are of one kind and some of the other.
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        summary = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a Parquet file of codes that can be read: {summary}") from None
