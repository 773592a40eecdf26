"""A corpus that is being tokenized: what of, how, and which shards are still to be made.

Nothing is kept in memory or sent from process to process: job.json and plan.jsonl say what to do, and the record of
each shard that it is done. So any number of processes, one after the other or at once, do one job.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import inf
from pathlib import Path

from codec.corpora.recording import Recording
from codec.model import Codec
from codec.settings import settings_from
from codec.shards.manifest import MANIFEST_FILE, Manifest, finish, load_manifest
from codec.shards.plan import PLAN_FILE, first_difference, plan_sha256, read_plan, shard_offsets, write_plan
from codec.shards.record import finished_shards, forget_shard, is_finished, load_record
from codec.shards.schema import CodecFacts
from codec.tokens import CodecTokenizer
from codec.whole import clear_partial, create_whole

JOB_FILE = "job.json"

SHARD_SIZE = 512
BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """All that decides what the shards hold.

    Attributes:
        codec: Whose codes they are.
        pattern: In which order tokens stand; see `CodecTokenizer`.
        shared: Whether all stages share one range of tokens.
        extras: Names of further special tokens.
        shard_size: Recordings of a shard.
        batch_seconds: Audio that is encoded at a time, padding counted. Longer recordings are streamed. It is part of
            the job because two codes that are equally near to the last digit may be told apart by it.
        num_recordings: In all shards.
        plan_sha256: Of plan.jsonl, a line for each recording.

    Raises:
        ValueError: A number is not positive, or infinite.
    """

    codec: CodecFacts
    pattern: str
    shared: bool
    extras: tuple[str, ...]
    shard_size: int
    batch_seconds: float
    num_recordings: int
    plan_sha256: str

    def __post_init__(self) -> None:
        for name in ("shard_size", "batch_seconds", "num_recordings"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}")

    @property
    def num_shards(self) -> int:
        """Of which the last may be smaller."""
        return -(-self.num_recordings // self.shard_size)

    def size_of(self, index: int) -> int:
        """Recordings of a shard."""
        return min(self.shard_size, self.num_recordings - index * self.shard_size)

    def tokenizer(self) -> CodecTokenizer:
        """What makes tokens of the codes.

        Raises:
            ValueError: There is no such pattern, or a name among the extras does not fit.
        """
        return CodecTokenizer(
            self.codec.num_quantizers,
            self.codec.codebook_size,
            self.pattern,
            shared=self.shared,
            extras=self.extras,
            model=self.codec.model,
            fingerprint=self.codec.fingerprint,
            frame_rate=self.codec.frame_rate,
        )


def plan_job(
    codec: Codec,
    recordings: Sequence[Recording],
    *,
    num_quantizers: int | None = None,
    pattern: str = "flatten",
    shared: bool = False,
    extras: Sequence[str] = (),
    shard_size: int = SHARD_SIZE,
    batch_seconds: float = BATCH_SECONDS,
) -> Job:
    """Decide how to tokenize recordings; nothing is written yet.

    Args:
        codec: What encodes them.
        recordings: In the order in which they shall stand in the shards.
        num_quantizers: How many first stages. Default: all.
        pattern: See `Job`, also for the others.
        shared: See there.
        extras: See there.
        shard_size: See there.
        batch_seconds: See there.

    Raises:
        ValueError: One of these is out of range.
    """
    stages = codec.num_quantizers if num_quantizers is None else num_quantizers
    if not 1 <= stages <= codec.num_quantizers:
        raise ValueError(f"num_quantizers must be from 1 to {codec.num_quantizers}; got {stages}")
    facts = codec_facts(codec, stages)
    sha256 = plan_sha256(recordings)
    job = Job(facts, pattern, shared, tuple(extras), shard_size, batch_seconds, len(recordings), sha256)
    job.tokenizer()  # refuses what it does not know
    return job


def codec_facts(codec: Codec, num_quantizers: int) -> CodecFacts:
    """All that the codes of so many first stages depend on."""
    return CodecFacts(
        model=codec.name,
        fingerprint=codec.fingerprint(),
        sample_rate=codec.sample_rate,
        frame_rate=codec.frame_rate,
        codebook_size=codec.codebook_size,
        num_quantizers=num_quantizers,
        beam_size=codec.beam_size,
    )


def start_job(folder: Path, job: Job, recordings: Sequence[Recording]) -> None:
    """Write job.json and plan.jsonl into a folder, which is made if need be; or see that they are there already.

    Several processes may do so at once.

    Args:
        folder: Where the shards will be.
        job: As `plan_job` made it of the recordings.
        recordings: The same.

    Raises:
        ValueError: In the folder is another job, and the message says what differs; or something else; or the plan is
            not that of the job any more.
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if (folder / JOB_FILE).exists():  # after the listing: others may be beginning
        _check_same(folder, load_job(folder), job, recordings)
    elif there:
        raise ValueError(f"{folder} must be empty or hold a job begun earlier; got {min(there)} and no {JOB_FILE}")
    else:
        create_whole(folder / JOB_FILE, (json.dumps(asdict(job), indent=2) + "\n").encode())
        _check_same(folder, load_job(folder), job, recordings)  # of commands that start at once, one was the first
    if not (folder / PLAN_FILE).exists():
        write_plan(folder, recordings)
    shard_offsets(folder, job.plan_sha256, job.shard_size)  # which reads it


def load_job(folder: Path) -> Job:
    """Read job.json.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    path = folder / JOB_FILE
    try:
        return settings_from(json.loads(path.read_bytes()), Job)
    except FileNotFoundError:
        raise ValueError(f"{folder}: holds no {JOB_FILE}; codec tokenize begins a corpus with one") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a job: {error}") from None


def recordings_of(folder: Path, index: int) -> list[Recording]:
    """The recordings of one shard, as plan.jsonl lists them.

    Raises:
        ValueError: The plan is not that of the job any more.
        OSError: It cannot be read.
    """
    job = load_job(folder)
    begin = shard_offsets(folder, job.plan_sha256, job.shard_size)[index]
    return list(islice(read_plan(folder, begin), job.shard_size))


def pending(folder: Path, among: Iterable[int] | None = None) -> list[int]:
    """Indices of the shards that are not finished: their record is lacking, or a file that it lists, or a part of one.

    Args:
        folder: Of the corpus.
        among: Which shards to look at, in order. Default: all.
    """
    recorded = set(finished_shards(folder))
    indices = range(load_job(folder).num_shards) if among is None else among
    return [index for index in indices if index not in recorded or not is_finished(folder, index)]


def forget_errors(folder: Path, among: Iterable[int]) -> list[int]:
    """Let the finished shards that list bad recordings be made again.

    Args:
        folder: Of the corpus, which is no longer finished if there are any.
        among: Which shards to look at.

    Returns:
        Which those are.
    """
    recorded = set(finished_shards(folder))
    bad = [index for index in among if index in recorded and _has_errors(folder, index)]
    if bad:
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for index in bad:
        forget_shard(folder, index)
    return bad


def finish_job(folder: Path) -> Manifest | None:
    """Once all shards are finished, write what stands beside them; None before that.

    Whoever makes the last shard does so. When several do it at once, they write the same.
    """
    if pending(folder):
        return None
    try:
        load_job(folder).tokenizer().save_pretrained(folder)
        manifest = finish(folder)
        # What was killed left them. It comes last, since it takes them from others that finish the job, too: they find
        # it finished.
        clear_partial(folder)
    except (FileNotFoundError, ValueError) as error:
        if pending(folder):  # another process forgot some meanwhile
            return None
        if isinstance(error, ValueError) or not (folder / MANIFEST_FILE).exists():
            raise
        manifest = load_manifest(folder)
    return manifest


def _has_errors(folder: Path, index: int) -> bool:
    try:
        return bool(load_record(folder, index).errors)
    except ValueError:  # not finished at all
        return False


def _check_same(folder: Path, begun: Job, job: Job, recordings: Sequence[Recording]) -> None:
    was, now = _flat(begun), _flat(job)
    differences = [f"{name} was {was[name]}, now {now[name]}" for name in was if was[name] != now[name]]
    if begun.plan_sha256 != job.plan_sha256:
        differences.append(first_difference(folder, recordings))
    if differences:
        raise ValueError(
            f"{folder} holds another job: {'; '.join(differences)}. Go on with the same input and settings, or choose "
            f"another folder"
        )


def _flat(job: Job) -> dict[str, object]:
    table = asdict(job)
    del table["plan_sha256"]
    return {**table.pop("codec"), **table}
