"""Whether a tokenized corpus on disk is what was written, and whether that makes sense."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from codec.corpora.recording import Recording
from codec.shards.card import CARD_FILE
from codec.shards.job import PLAN_FILE
from codec.shards.manifest import (
    ERRORS_FILE,
    MANIFEST_FILE,
    Manifest,
    errors_of,
    load_manifest,
    load_records,
    manifest_of,
)
from codec.shards.parquet import RowsFile, read_rows
from codec.shards.record import FileSum, ShardRecord, shard_name
from codec.shards.schema import CodecFacts, Row
from codec.shards.token_files import TokenFiles
from codec.shards.write import as_tensor, count_rows, table_of


def verify(folder: str | Path) -> list[str]:
    """Read all of a finished corpus and say what is wrong with it.

    First, whether all files are there, unchanged, and no others (hidden ones aside). If so, whether what they say fits
    together: records and manifest; codes, their range, their counts and their tokens; and the recordings that were to
    be tokenized, each of which must be there once. Each of these is looked at if nothing before it is wrong.

    Args:
        folder: That of the corpus.

    Returns:
        A line for each problem; none if the corpus is whole.
    """
    folder = Path(folder)
    try:
        manifest = load_manifest(folder)
        # What is in changed files says nothing new.
        files = [*_file_problems(folder, manifest)]
        return files or [*_content_problems(folder, manifest)]
    except ValueError as error:
        return [str(error)]
    except OSError as error:
        return [f"{error.filename or folder}: cannot be read: {error.strerror}"]


def _file_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    for file in manifest.files:
        yield from _sum_problems(folder / file.name, file)
    if not (folder / CARD_FILE).exists():
        yield f"{folder / CARD_FILE}: is lacking"
    known = {MANIFEST_FILE, CARD_FILE, *(file.name for file in manifest.files)}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            yield f"{path}: does not belong to the corpus"


def _sum_problems(path: Path, file: FileSum) -> Iterator[str]:
    try:
        size = path.stat().st_size
        if size != file.size:
            yield f"{path}: must have {file.size} bytes; got {size}"
        elif (found := FileSum.of(path).sha256) != file.sha256:
            yield f"{path}: has changed: its SHA-256 must be {file.sha256}; got {found}"
    except FileNotFoundError:
        yield f"{path}: is lacking"
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror}"


def _content_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    records = load_records(folder)
    # Where the manifest and the records disagree, shards are not where they are looked for.
    yield from [*_manifest_problems(folder, manifest, records)] or _shards_problems(folder, manifest, records)


def _manifest_problems(folder: Path, manifest: Manifest, records: Sequence[ShardRecord]) -> Iterator[str]:
    expected = manifest_of(folder, manifest.codec, records)
    for name in ("clips", "seconds", "frames", "errors", "shards", "files"):
        if getattr(manifest, name) != getattr(expected, name):
            yield f"{folder / MANIFEST_FILE}: {name} must be those of the records of all shards"
    if (folder / ERRORS_FILE).read_bytes() != errors_of(records):
        yield f"{folder / ERRORS_FILE}: must list the clips without a row, as the records of all shards do"


def _shards_problems(folder: Path, manifest: Manifest, records: Sequence[ShardRecord]) -> Iterator[str]:
    tokens = TokenFiles(folder)
    if tokens.tokenizer.fingerprint not in (None, manifest.codec.fingerprint):
        yield f"{folder}: tokens must be of the codec {manifest.codec.fingerprint}; got {tokens.tokenizer.fingerprint}"
    ids = [error.id for record in records for error in record.errors]
    first, whole = 0, True
    for record in records:
        shard = _Shard(folder, record, manifest.codec, tokens, first)
        for problem in shard.problems():
            whole = False
            yield problem
        ids += shard.ids
        first += record.clips
    if whole:
        yield from _id_problems(folder, ids)


@dataclass
class _Shard:
    """A shard and what is found in it; the first of its clips is clip `first` of the corpus."""

    folder: Path
    record: ShardRecord
    facts: CodecFacts
    tokens: TokenFiles
    first: int
    ids: list[str] = field(default_factory=list)

    def problems(self) -> Iterator[str]:
        path = self.folder / f"{shard_name(self.record.index)}.parquet"
        try:
            if (facts := RowsFile(path).facts) != self.facts:
                yield f"{path}: must hold codes of {self.facts}; got {facts}"
                return
            seconds, frames, counts = [], 0, count_rows([], facts)
            for row in read_rows(path):
                if problem := self._problem(row):
                    yield f"{path}: {row.id}: {problem}"
                    return
                self.ids.append(row.id)
                seconds.append(row.duration)
                frames += row.codes.shape[1]
                counts += count_rows([row], facts)
        except ValueError as error:
            yield str(error)
            return
        found = {"clips": len(seconds), "seconds": math.fsum(seconds), "frames": frames, "counts": table_of(counts)}
        for name, value in found.items():
            if value != getattr(self.record, name):
                yield f"{path}: {name} must be as the record says"

    def _problem(self, row: Row) -> str | None:
        if row.codes.shape[0] != self.facts.num_quantizers:
            return f"codes must be of {self.facts.num_quantizers} stages; got {row.codes.shape[0]}"
        if row.codes.size and row.codes.max() >= self.facts.codebook_size:
            return f"codes must be below {self.facts.codebook_size}; got {row.codes.max()}"
        expected = self.tokens.tokenizer.encode(as_tensor(row.codes)).numpy()
        if len(self.ids) == self.record.clips or not np.array_equal(self.tokens[self.first + len(self.ids)], expected):
            return "its tokens must be those of its codes"
        return None


def _id_problems(folder: Path, ids: Sequence[str]) -> Iterator[str]:
    """Recordings of the plan that are not in the corpus, and clips that are there too often or without one."""
    found = Counter(ids)
    plan = folder / PLAN_FILE
    lines = plan.read_text(encoding="utf-8").splitlines() if plan.exists() else []
    planned = Counter(Recording.from_json(line).id for line in lines) if lines else Counter(found.keys())
    for name, difference in (("lacks", planned - found), ("has too many:", found - planned)):
        if difference:
            yield f"{folder}: {name} {difference.total()} of its recordings, the first of them {min(difference)}"
