"""`codec tokenize`: a corpus of audio -> shards of codes and tokens."""

import errno
import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.batch import Outcome, Problem, Report, Work, run_tasks, run_tasks_on_ray
from codec.cli.encode import Bitrate, Stages, choose_stages
from codec.cli.errors import BUG, FAILED, CommandError, in_one_line, one_line_errors, show_traceback
from codec.cli.interrupt import Interrupted
from codec.cli.log import log
from codec.cli.model import find_device, load_model
from codec.cli.options import DEFAULT_MODEL, Model
from codec.cli.progress import show_steps
from codec.cli.rank import Rank

if TYPE_CHECKING:
    from codec import Codec
    from codec.shards import Manifest

    Advance = Callable[[int, float, float | None], None]
    Outcomes = Generator[Outcome[int, "float | NoRoom"], None, None]

# After which no other shard can be written either.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="INPUT",
        help="Folders of audio, manifests (.tsv, .jsonl), WebDataset shards (.tar) or folders of them, Hugging Face "
        "data sets with an audio column (folders that save_to_disk wrote, .parquet files or folders of them).",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Where the shards go. It is made if need be; a job begun in it goes on.",
    ),
]
Pattern = Annotated[
    str, typer.Option("--pattern", help="Order of the tokens: flatten, coarse_first, parallel or delay.")
]
Shared = Annotated[bool, typer.Option("--shared", help="One range of tokens for all stages, instead of one for each.")]
Extras = Annotated[
    list[str] | None,
    typer.Option(
        "--extra", metavar="NAME", help="A special token of that name beside pad, bos, eos and sep; repeatable."
    ),
]
ShardSize = Annotated[
    int, typer.Option("--shard-size", min=1, help="Recordings of a shard, which one process makes at a time.")
]
BatchSeconds = Annotated[
    float, typer.Option("--batch-seconds", min=1, help="Audio encoded at a time. Longer recordings are streamed.")
]
ShardJobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Processes. Default: as many as this machine has cores; on a GPU, one; on a Ray cluster, what it has "
        "room for.",
        show_default=False,
    ),
]
ShardDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, mps. Default: cpu; under a launcher, each process its own GPU. On a Ray cluster, cpu "
        "or cuda: each process its own GPU.",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on this Ray cluster: HOST:PORT; auto, that of this machine; local, one that is started here and "
        "ends with the command.",
        show_default=False,
    ),
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="Make finished shards again that list bad recordings.")
]
AcceptMissing = Annotated[
    bool,
    typer.Option(
        "--accept-missing", help="List recordings as bad even where a shard has no other: they are gone for good."
    ),
]
Verify = Annotated[
    Path | None,
    typer.Option("--verify", metavar="FOLDER", help="Only check that the finished corpus in FOLDER is whole."),
]


@dataclass(frozen=True)
class NoRoom:
    """What comes of a shard that could not be written, nor could any other: which file, and why."""

    reason: str


def tokenize(
    inputs: Inputs = None,
    output: Folder = None,
    model: Model = DEFAULT_MODEL,
    bitrate: Bitrate = None,
    stages: Stages = None,
    pattern: Pattern = "flatten",
    shared: Shared = False,
    extra: Extras = None,
    shard_size: ShardSize = 512,
    batch_seconds: BatchSeconds = 60.0,
    jobs: ShardJobs = None,
    device: ShardDevice = None,
    ray: Ray = None,
    retry_errors: RetryErrors = False,
    accept_missing: AcceptMissing = False,
    verify: Verify = None,
) -> None:
    """Turn a corpus into shards of codes and tokens, for training language models.

    Killed at any time and started again in the same way, it goes on. Bad files are listed in errors.jsonl.

    On all GPUs, or on machines with a common file system: accelerate launch -m codec.cli tokenize ...
    """
    if verify is not None:
        if inputs or output is not None:
            raise typer.BadParameter("--verify takes its folder alone, without INPUT and --output")
        return _verify(verify)
    if not inputs or output is None:
        raise typer.BadParameter("INPUT and --output FOLDER must be given")
    if bitrate is not None and stages is not None:
        raise typer.BadParameter("--bitrate and --stages exclude each other")
    if any(name.startswith("ACCELERATE_") for name in os.environ):
        from codec.train.launch import start_missing_processes

        start_missing_processes()
    rank = Rank.of(os.environ)
    device = rank.device() if device is None else device
    if ray is None:
        find_device(device)
    elif device not in ("cpu", "cuda"):  # the others are of this machine
        raise typer.BadParameter(f"--device must be cpu or cuda on a Ray cluster; got {device!r}")
    with one_line_errors(ValueError, ImportError):
        from codec.corpora.find import find_recordings
        from codec.shards.job import finish_job, forget_errors, pending, plan_job, start_job

        codec = load_model(model)
        recordings = find_recordings(inputs)
        job = plan_job(
            codec,
            recordings,
            num_quantizers=choose_stages(codec, bitrate, stages),
            pattern=pattern,
            shared=shared,
            extras=extra or (),
            shard_size=shard_size,
            batch_seconds=batch_seconds,
        )
        start_job(output, job, recordings)
        del recordings  # of a large corpus, gigabytes
        share = rank.share(range(job.num_shards))
        if retry_errors:
            forget_errors(output, share)
        indices = pending(output, share)
        log.debug("%d of %d shards to make", len(indices), job.num_shards)
        setup = partial(start_shards, output.absolute(), _same_everywhere(model), device, accept_missing)
        if ray is None:
            run = partial(run_tasks, indices, setup, rank.jobs(device) if jobs is None else jobs)
        else:
            run = partial(run_tasks_on_ray, indices, setup, ray, gpu=device == "cuda", jobs=jobs)
        if indices:
            _make_shards(run, indices, sum(map(job.size_of, indices)))
        manifest = finish_job(output)
        if manifest is None:
            still = "other processes still make %d shards; should they have ended, the same command finishes it"
            log.info(f"%s: {still}", output, len(pending(output)))
        else:
            if not indices:
                log.info("%s: was finished already", output)
            _sum_up(output, manifest)


def start_shards(folder: Path, model: str, device: str, accept_missing: bool = False) -> "Work[int, float | NoRoom]":
    """Load the model.

    Returns:
        What makes a shard, and gives the seconds of audio in it.

    Raises:
        CommandError: There is no such model or device.
    """
    return partial(_make_shard, folder, load_model(model, device), accept_missing)


def _make_shard(folder: Path, codec: "Codec", accept_missing: bool, index: int, report: Report) -> float | NoRoom:
    from codec.shards.shard import make_shard

    try:
        record = make_shard(folder, index, codec, lambda count: report(count, None), accept_missing=accept_missing)
        return record.seconds
    except ValueError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            return NoRoom(in_one_line(error))
        raise


def _same_everywhere(model: str) -> str:
    """The name of a model, or the path of its folder, for processes that started elsewhere."""
    from codec.model.folder import shipped_models

    return str(Path(model).absolute()) if Path(model).is_dir() and model not in shipped_models() else model


def _make_shards(run: "Callable[[Advance], Outcomes]", indices: Sequence[int], num_recordings: int) -> None:
    """Make shards; one that fails does not stop the others.

    Args:
        run: Makes those with these indices.
        indices: Theirs.
        num_recordings: In all of them.

    Raises:
        typer.Exit: Some failed.
        CommandError: The setup failed, or nothing can be written any more.
        Interrupted: It was; with how far it came.
    """
    done: list[float] = []
    failed: list[tuple[int, Problem]] = []
    recordings = 0.0
    started = time.monotonic()
    try:
        with show_steps(log.isEnabledFor(logging.INFO)) as show:

            def advance(index: int, count: float, whole: float | None) -> None:
                nonlocal recordings
                recordings += count
                show("recordings", recordings / num_recordings)

            with closing(run(advance)) as outcomes:
                for outcome in outcomes:
                    match outcome.result:
                        case NoRoom(reason):
                            raise CommandError(f"{reason}; {_so_far(done, indices)}")
                        case float() as seconds:
                            done.append(seconds)
                        case None if outcome.problem is not None:
                            failed.append((outcome.task, outcome.problem))
    except Interrupted as error:
        error.detail = _so_far(done, indices)
        raise
    speed = sum(done) / (time.monotonic() - started)
    log.info("%d shards done, %.1f s of audio, %.1f times real time", len(done), sum(done), speed)
    _report_failed(failed)


def _so_far(done: Sequence[float], indices: Sequence[int]) -> str:
    return f"{len(done)} of {len(indices)} shards done; the same command goes on"


def _report_failed(failed: Sequence[tuple[int, Problem]]) -> None:
    for index, problem in failed:
        show_traceback(problem.traceback)
        log.error("shard %d: %s", index, problem.message)
    if failed:
        log.error("shards failed: %d; the same command tries again", len(failed))
        raise typer.Exit(FAILED if all(problem.expected for _, problem in failed) else BUG)


def _sum_up(folder: Path, manifest: "Manifest") -> None:
    if manifest.errors:
        whole = manifest.clips + manifest.errors
        listed = "bad recordings: %d of %d, listed in %s; --retry-errors tries them again"
        log.warning(listed, manifest.errors, whole, folder / "errors.jsonl")
    log.info(
        "%s: %d recordings, %.2f h, in %d shards", folder, manifest.clips, manifest.seconds / 3600, len(manifest.shards)
    )
    if not manifest.clips:
        raise CommandError(f"{folder}: holds nothing: no recording of the input could be read")


def _verify(folder: Path) -> None:
    with one_line_errors(ValueError, ImportError):
        from codec.shards import load_manifest, verify
        from codec.shards.check import damaged_shards

        problems = verify(folder)
        for problem in problems:
            log.error("%s", problem)
        if damaged := [f"{name}.json" for name in damaged_shards(problems)]:
            log.error(
                "to mend it: delete %s in %s, and give the command that made it again", ", ".join(damaged), folder
            )
        if problems:
            raise typer.Exit(FAILED)
        manifest = load_manifest(folder)
    typer.echo(f"{folder}: whole: {manifest.clips} recordings, {len(manifest.files)} files")
