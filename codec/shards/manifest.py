"""What is in a finished corpus, with a sum of every file."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from codec.settings import settings_from
from codec.shards.card import CARD_FILE, card_of
from codec.shards.parquet import RowsFile
from codec.shards.record import (
    FileSum,
    Records,
    ShardRecord,
    finished_shards,
    load_object,
    load_record,
    record_path,
    shard_name,
)
from codec.shards.schema import FORMAT_VERSION, CodecFacts, check_version
from codec.tokens import CodecTokenizer
from codec.whole import write_whole

MANIFEST_FILE = "manifest.json"
ERRORS_FILE = "errors.jsonl"
# What was to be done, and the tokenizer: summed up if they are there.
_OTHER_FILES = ("codec_tokenizer.json", "job.json", "plan.jsonl")


@dataclass(frozen=True)
class ShardEntry:
    """A shard: name of its files, rows, seconds of original audio, frames of codes, and clips without a row."""

    name: str
    clips: int
    seconds: float
    frames: int
    errors: int


@dataclass(frozen=True)
class Manifest:
    """A finished corpus.

    Attributes:
        format_version: Of everything in the folder.
        codec: Whose codes they are.
        clips: Rows of all shards; `seconds`, `frames` and `errors` likewise.
        seconds: Of original audio.
        frames: Of codes.
        errors: Clips without a row, listed in errors.jsonl.
        shards: In their order.
        files: By name: all but the manifest itself and the card, which people may edit.
    """

    format_version: int
    codec: CodecFacts
    clips: int
    seconds: float
    frames: int
    errors: int
    shards: tuple[ShardEntry, ...]
    files: tuple[FileSum, ...]


def finish(folder: Path) -> Manifest:
    """Write errors.jsonl, the card and, last, manifest.json, once all shards have their record.

    Whoever does it writes the same bytes: any number of processes may, at once or again. A card stays as it is if
    nothing has changed since it was written.

    Args:
        folder: Of the corpus, with all shards and the tokenizer.

    Returns:
        The manifest.

    Raises:
        ValueError: There is no shard, or there are gaps between them; or a file is damaged, or of another codec.
        OSError: A file cannot be written.
    """
    facts = common_facts(folder, count_shards(folder))
    records = load_records(folder, facts)
    write_whole(folder / ERRORS_FILE, errors_of(records.shards))
    manifest = manifest_of(folder, facts, records.shards)
    content = (json.dumps(asdict(manifest), indent=2) + "\n").encode()
    path, card = folder / MANIFEST_FILE, folder / CARD_FILE
    if not (card.exists() and path.exists() and path.read_bytes() == content):
        write_whole(card, card_of(facts, records, CodecTokenizer.from_pretrained(folder)).encode())
        write_whole(path, content)
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of a finished corpus.

    Raises:
        ValueError: There is none, or it is damaged, or of another version of the format.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise ValueError(f"{folder}: has no {MANIFEST_FILE}; codec tokenize writes it when all shards are there")
    table = load_object(path)
    try:
        check_version(table.get("format_version"))
        manifest = settings_from(table, Manifest)
        for index, shard in enumerate(manifest.shards):
            if shard.name != shard_name(index) or shard.clips < 0:
                raise ValueError(f"shard {index} must be {shard_name(index)}, with 0 clips or more; got {shard}")
        for file in manifest.files:
            if Path(file.name).name != file.name:
                raise ValueError(f"files must be in the folder itself; got {file.name}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return manifest


def count_shards(folder: Path) -> int:
    """How many there are.

    Raises:
        ValueError: There is none, or there are gaps between them.
    """
    indices = finished_shards(folder)
    if not indices:
        raise ValueError(f"{folder}: has no finished shard")
    if gaps := sorted(set(range(indices[-1] + 1)) - set(indices)):
        raise ValueError(f"{folder}: must have all shards up to {indices[-1]}; {shard_name(gaps[0])} is not finished")
    return len(indices)


def load_records(folder: Path, facts: CodecFacts) -> Records:
    """The records of all shards.

    Args:
        folder: Of the corpus.
        facts: Of the codec.

    Raises:
        ValueError: There is none, or there are gaps between them, or one is damaged or of another codec.
    """
    total = np.zeros((facts.num_quantizers, facts.codebook_size), dtype=np.int64)
    shards = []
    for index in range(count_shards(folder)):
        record = load_record(folder, index)
        if [len(counts) for counts in record.counts] != [facts.codebook_size] * facts.num_quantizers:
            raise ValueError(
                f"{record_path(folder, index)}: must have counts of {facts.num_quantizers} stages of "
                f"{facts.codebook_size} codes"
            )
        total += np.array(record.counts)
        shards.append(replace(record, counts=()))
    return Records(shards, total)


def common_facts(folder: Path, num_shards: int) -> CodecFacts:
    """The codec whose codes are in all shards.

    Raises:
        ValueError: Two shards are of different ones, or cannot be read.
    """
    paths = [folder / f"{shard_name(index)}.parquet" for index in range(num_shards)]
    first = RowsFile(paths[0]).facts
    for path in paths[1:]:
        if (facts := RowsFile(path).facts) != first:
            raise ValueError(f"{path}: must hold codes of {first}, as {paths[0].name} does; got {facts}")
    return first


def errors_of(records: Sequence[ShardRecord]) -> bytes:
    """Contents of errors.jsonl."""
    return b"".join((json.dumps(asdict(error)) + "\n").encode() for record in records for error in record.errors)


def entry_of(record: ShardRecord) -> ShardEntry:
    """What the manifest says of a shard."""
    return ShardEntry(shard_name(record.index), record.clips, record.seconds, record.frames, len(record.errors))


def manifest_of(folder: Path, facts: CodecFacts, records: Sequence[ShardRecord]) -> Manifest:
    """The manifest of a corpus with these records.

    Args:
        folder: Of the corpus.
        facts: Of the codec.
        records: Of all shards.
    """
    shards = tuple(entry_of(record) for record in records)
    others = [folder / name for name in _OTHER_FILES if (folder / name).exists()]
    own = [record_path(folder, record.index) for record in records]
    # Those of shards were summed up as they were written: a corpus may be too large to read it all again.
    files = [file for record in records for file in record.files]
    files += [FileSum.of(path) for path in (*others, *own, folder / ERRORS_FILE)]
    return Manifest(
        format_version=FORMAT_VERSION,
        codec=facts,
        clips=sum(shard.clips for shard in shards),
        seconds=math.fsum(shard.seconds for shard in shards),
        frames=sum(shard.frames for shard in shards),
        errors=sum(shard.errors for shard in shards),
        shards=shards,
        files=tuple(sorted(files, key=lambda file: file.name)),
    )
