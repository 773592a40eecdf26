"""plan.jsonl: the recordings of a corpus that is being tokenized, a line each, in the order of the shards."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, zip_longest
from pathlib import Path

from codec.corpora.recording import Recording
from codec.whole import write_lines

PLAN_FILE = "plan.jsonl"


def write_plan(folder: Path, recordings: Sequence[Recording]) -> None:
    """List recordings."""
    write_lines(folder / PLAN_FILE, _lines(recordings))


def plan_sha256(recordings: Sequence[Recording]) -> str:
    """SHA-256 of their plan, in hexadecimal digits."""
    digest = hashlib.sha256()
    for line in _lines(recordings):
        digest.update(line)
    return digest.hexdigest()


@lru_cache(maxsize=4)
def shard_offsets(folder: Path, sha256: str, shard_size: int) -> tuple[int, ...]:
    """Where in the plan each shard begins, in bytes. A process reads the plan once, however many shards it makes.

    Args:
        folder: Of the corpus.
        sha256: What the plan must have.
        shard_size: Recordings of a shard.

    Raises:
        ValueError: It is another plan.
        OSError: It cannot be read.
    """
    path = folder / PLAN_FILE
    digest, begin, offsets = hashlib.sha256(), 0, []
    with path.open("rb") as file:
        while lines := b"".join(islice(file, shard_size)):
            offsets.append(begin)
            begin += len(lines)
            digest.update(lines)
    if digest.hexdigest() != sha256:
        raise ValueError(
            f"{path}: must be the plan of the job, with the SHA-256 {sha256}; got {digest.hexdigest()}. Delete it, and "
            f"the same command writes it again; --verify will tell if shards were made of another one"
        )
    return tuple(offsets)


def read_plan(folder: Path, begin: int = 0) -> Iterator[Recording]:
    """The recordings from an offset on.

    Raises:
        ValueError: A line is damaged.
        OSError: It cannot be read.
    """
    with (folder / PLAN_FILE).open("rb") as file:
        file.seek(begin)
        for line in file:
            yield Recording.from_json(line.decode())


def first_difference(folder: Path, recordings: Sequence[Recording]) -> str:
    """Which recording is another than that of the plan.

    Raises:
        ValueError: That line of the plan is damaged.
        OSError: It cannot be read.
    """
    plan = folder / PLAN_FILE
    if not plan.exists():  # killed before it was written
        return "the recordings were others"
    with plan.open("rb") as begun:
        for number, (was, now) in enumerate(zip_longest(begun, _lines(recordings)), start=1):
            if was != now:
                return f"recording {number} was {_describe(was, now)}, now {_describe(now, was)}"
    return f"{plan.name} was another"


def _lines(recordings: Sequence[Recording]) -> Iterator[bytes]:
    for recording in recordings:
        yield f"{recording.to_json()}\n".encode()


def _describe(line: bytes | None, other: bytes | None) -> str:
    """The id of a recording, and in what else it differs from another one."""
    if line is None:
        return "none"
    told, compared = _fields(line), {} if other is None else _fields(other)
    others = [f"{name} {value}" for name, value in told.items() if compared and value != compared.get(name)]
    return ", ".join([str(told["id"]), *(each for each in others if not each.startswith("id "))])


def _fields(line: bytes) -> dict[str, object]:
    return dict(json.loads(Recording.from_json(line.decode()).to_json()))
