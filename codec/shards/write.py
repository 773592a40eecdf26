"""One shard: clips with their codes -> all of its files."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codec.quantize.usage import count_codes
from codec.shards.parquet import write_rows
from codec.shards.record import BadClip, FileSum, ShardRecord, shard_name, write_record
from codec.shards.schema import CodecFacts, Row
from codec.shards.token_files import write_tokens
from codec.tokens import CodecTokenizer


def write_shard(
    folder: Path,
    index: int,
    rows: Sequence[Row],
    errors: Iterable[BadClip],
    facts: CodecFacts,
    tokenizer: CodecTokenizer,
) -> ShardRecord:
    """Write the codes, the tokens and, last, the record of a shard.

    Args:
        folder: Of the corpus; it must be there.
        index: Of the shard, from 0.
        rows: In the order of the input.
        errors: Clips of which there is no row, in the order of the input.
        facts: Of the codec.
        tokenizer: What makes tokens of the codes.

    Returns:
        The record, as it is on disk.

    Raises:
        ValueError: Codes are of another type or shape, or out of range.
        OSError: A file cannot be written.
    """
    stem = folder / shard_name(index)
    rows_file = stem.with_suffix(".parquet")
    write_rows(rows_file, rows, facts)
    sequences = (tokenizer.encode(as_tensor(row.codes)).numpy() for row in rows)
    token_files = write_tokens(stem, sequences, tokenizer.width, tokenizer.vocab_size)
    record = ShardRecord(
        index=index,
        clips=len(rows),
        # Rounded once, not at every sum.
        seconds=math.fsum(row.duration for row in rows),
        frames=sum(row.codes.shape[1] for row in rows),
        files=tuple(FileSum.of(path) for path in (rows_file, *token_files)),
        errors=tuple(errors),
        counts=table_of(count_rows(rows, facts)),
    )
    write_record(folder, record)
    return record


def count_rows(rows: Iterable[Row], facts: CodecFacts) -> NDArray[np.int64]:
    """How often each stage has each code, [num_quantizers, codebook_size]."""
    total = np.zeros((facts.num_quantizers, facts.codebook_size), dtype=np.int64)
    for row in rows:
        total += count_codes(as_tensor(row.codes)[None], facts.codebook_size).numpy()
    return total


def table_of(counts: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Counts as a record has them."""
    return tuple(map(tuple, counts.tolist()))


def as_tensor(codes: NDArray[np.uint16]) -> torch.Tensor:
    """The same codes, as everything outside of shards has them: int64."""
    return torch.from_numpy(codes.astype(np.int64))
