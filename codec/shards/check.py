"""Whether a tokenized corpus on disk is what was written, and whether that makes sense."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from codec.shards.card import CARD_FILE
from codec.shards.job import JOB_FILE, load_job
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
from codec.shards.plan import PLAN_FILE, read_plan
from codec.shards.record import FileSum, ShardRecord, load_record, shard_name
from codec.shards.schema import CodecFacts, Row
from codec.shards.token_files import TokenFiles
from codec.shards.write import as_tensor, count_rows, table_of

_SURPLUS = "does not belong to the corpus"
_SHARD_PROBLEM = re.compile(rf"(?:^|/)(shard-\d{{5,}})\.\w+: (?!{_SURPLUS}$)", re.ASCII)


def verify(folder: str | Path) -> list[str]:
    """Read all of a finished corpus and say what is wrong with it.

    First, whether all files are there, unchanged, and no others (hidden ones aside). If so, whether what they say fits
    together: records, manifest, job and plan; codes, their range, their counts and their tokens; and the recordings
    that were to be tokenized, each of which must be there once. Each of these is looked at if nothing before it is
    wrong.

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


def damaged_shards(problems: Sequence[str]) -> list[str]:
    """Names of the shards of which `verify` says that they are not as they were made."""
    found = (_SHARD_PROBLEM.search(problem) for problem in problems)
    return sorted({match[1] for match in found if match})


def _file_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    for file in manifest.files:
        yield from _sum_problems(folder / file.name, file)
    if not (folder / CARD_FILE).exists():
        yield f"{folder / CARD_FILE}: is lacking"
    known = {MANIFEST_FILE, CARD_FILE, *(file.name for file in manifest.files)}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            yield f"{path}: {_SURPLUS}"


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
    records = load_records(folder, manifest.codec).shards
    # Where the manifest and the records disagree, shards are not where they are looked for.
    problems = [*_manifest_problems(folder, manifest, records), *_job_problems(folder, manifest)]
    yield from problems or _shards_problems(folder, manifest)


def _manifest_problems(folder: Path, manifest: Manifest, records: Sequence[ShardRecord]) -> Iterator[str]:
    expected = manifest_of(folder, manifest.codec, records)
    for name in ("clips", "seconds", "frames", "errors", "shards", "files"):
        if getattr(manifest, name) != getattr(expected, name):
            yield f"{folder / MANIFEST_FILE}: {name} must be those of the records of all shards"
    if (folder / ERRORS_FILE).read_bytes() != errors_of(records):
        yield f"{folder / ERRORS_FILE}: must list the clips without a row, as the records of all shards do"


def _job_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    path = folder / JOB_FILE
    if not path.exists():  # nothing says that there was one
        return
    job = load_job(folder)
    sums = {file.name: file.sha256 for file in manifest.files}
    if (found := sums.get(PLAN_FILE)) != job.plan_sha256:
        yield f"{folder / PLAN_FILE}: must be the plan of {JOB_FILE}, with the SHA-256 {job.plan_sha256}; got {found}"
    pairs = {
        "codec": (job.codec, manifest.codec),
        "shards": (job.num_shards, len(manifest.shards)),
        "recordings": (job.num_recordings, manifest.clips + manifest.errors),
    }
    for name, (was, now) in pairs.items():
        if was != now:
            yield f"{path}: {name} must be those of {MANIFEST_FILE}, {now}; got {was}"


def _shards_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    tokens = TokenFiles(folder)
    if tokens.tokenizer.fingerprint not in (None, manifest.codec.fingerprint):
        yield f"{folder}: tokens must be of the codec {manifest.codec.fingerprint}; got {tokens.tokenizer.fingerprint}"
    there = (folder / PLAN_FILE).exists()
    planned = (recording.id for recording in read_plan(folder)) if there else None
    seen: set[str] = set()
    first, whole = 0, True
    for index in range(len(manifest.shards)):
        record = load_record(folder, index)
        shard = _Shard(folder, record, manifest.codec, tokens, first)
        problems = [*shard.problems()]
        if planned is None:  # each once is all that can be asked for
            wanted = set(shard.all_ids()) - seen
            seen |= wanted
        else:
            wanted = set(islice(planned, record.clips + len(record.errors)))
        for problem in problems or shard.id_problems(wanted):
            whole = False
            yield problem
        first += record.clips
    if whole and planned is not None and (rest := list(planned)):
        yield f"{folder}: lacks {len(rest)} of its recordings, the first of them {rest[0]}"


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

    def all_ids(self) -> list[str]:
        """Of the rows that were read, and of bad recordings."""
        return [*self.ids, *(error.id for error in self.record.errors)]

    def id_problems(self, wanted: Set[str]) -> Iterator[str]:
        """Recordings of the plan that are not in the shard, and clips that are there too often or without one."""
        path = self.folder / f"{shard_name(self.record.index)}.json"
        expected, found = Counter(wanted), Counter(self.all_ids())
        for name, difference in (("lacks", expected - found), ("has too many:", found - expected)):
            if difference:
                yield f"{path}: {name} {difference.total()} of its recordings, the first of them {min(difference)}"
