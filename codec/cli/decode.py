"""`codec decode`: files of codes -> audio."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from codec.cli.batch import Report, Work
from codec.cli.code_file import open_code_file
from codec.cli.convert import SKIPPED, Converted, convert_files, share_threads
from codec.cli.errors import CommandError
from codec.cli.files import FileTask, plan_tasks
from codec.cli.model import load_model
from codec.cli.options import (
    DEFAULT_MODEL,
    Device,
    Jobs,
    Model,
    Outputs,
    Overwrite,
    Recursive,
    SkipExisting,
    check_existing,
    read_raw,
)
from codec.cli.output import OutputExistsError, new_file

if TYPE_CHECKING:
    from codec import Codec
    from codec.audio import AudioSink, RawFormat
    from codec.bitstream import BitstreamError
    from codec.transcode import Decoded

CODE_SUFFIXES = {".rvq"}

Sources = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files of codes; folders of them; - is standard input.")
]
Start = Annotated[float, typer.Option("--start", min=0, metavar="SECONDS", help="Leave out what is before.")]
Duration = Annotated[
    float | None, typer.Option("--duration", min=0, metavar="SECONDS", help="No more than that. Default: to the end.")
]
Conceal = Annotated[
    bool,
    typer.Option("--conceal", help="Replace what is damaged by a faded continuation, and say where, rather than fail."),
]
Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="RATE:CHANNELS:ENCODING",
        help="Write samples without a header, at that rate: 16000:1:s16, say. Encodings: u8, s16, s24, s32, f32.",
    ),
]


@dataclass(frozen=True)
class DecodeSettings:
    """All that is the same for each file, as it is sent to other processes.

    Attributes:
        model: As in `Codec.from_pretrained`.
        device: Where it runs.
        jobs: Processes that share the cores.
        start: Seconds to leave out.
        duration: Seconds to decode; None: to the end.
        conceal: Whether to replace what is damaged.
        raw: Of output without a header.
        overwrite: Whether outputs may exist.
        skip_existing: Whether an output that came to exist is no error.
    """

    model: str
    device: str
    jobs: int
    start: float
    duration: float | None
    conceal: bool
    raw: "RawFormat | None"
    overwrite: bool
    skip_existing: bool


def decode(
    sources: Sources,
    output: Outputs = None,
    start: Start = 0.0,
    duration: Duration = None,
    conceal: Conceal = False,
    raw: Raw = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    jobs: Jobs = 1,
    recursive: Recursive = False,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn files of codes back to audio: 16-bit WAV of the original's rate, channels and length."""
    if duration == 0:
        raise typer.BadParameter("must be positive; got 0", param_hint="--duration")
    check_existing(overwrite, skip_existing)
    raw_format = read_raw(raw)
    new_suffix = ".wav" if raw_format is None else ".raw"
    tasks = plan_tasks(sources, output, suffixes=CODE_SUFFIXES, new_suffix=new_suffix, recursive=recursive)
    settings = DecodeSettings(model, device, jobs, start, duration, conceal, raw_format, overwrite, skip_existing)
    convert_files(tasks, partial(start_decoding, settings), jobs=jobs, overwrite=overwrite, skip_existing=skip_existing)


def start_decoding(settings: DecodeSettings) -> Work[FileTask, Converted]:
    """Load the model.

    Returns:
        What decodes a file.

    Raises:
        CommandError: There is no such model or device.
    """
    share_threads(settings.jobs)
    codec = load_model(settings.model, settings.device)
    return partial(_decode_file, codec, codec.fingerprint(), settings)


def _decode_file(
    codec: "Codec", fingerprint: str, settings: DecodeSettings, task: FileTask, report: Report
) -> Converted:
    from codec.audio import AudioFileError
    from codec.bitstream import BitstreamError

    try:
        with _new_output(task, settings.overwrite) as path, open_code_file(task.source) as file:
            try:
                decoded = _decode(codec, fingerprint, settings, file, path, report)
            except AudioFileError as error:  # of the output: nothing else here is audio
                message = str(error) if task.output is None else str(error).replace(str(path), str(task.output))
                raise CommandError(message) from error
            except BitstreamError as error:
                raise CommandError(f"{task.name}: {error}{_remedy(error, settings)}") from error
            except ValueError as error:
                raise CommandError(f"{task.name}: {error}") from error
    except OutputExistsError:
        if settings.skip_existing:
            return SKIPPED
        raise
    is_whole = settings.start == 0 and settings.duration is None
    num_bytes = task.source.stat().st_size if task.source is not None and is_whole else None
    return Converted(decoded.seconds, num_bytes, _warnings(decoded))


def _decode(
    codec: "Codec", fingerprint: str, settings: DecodeSettings, file: BinaryIO, path: Path | int, report: Report
) -> "Decoded":
    from codec.audio import open_sink
    from codec.transcode import decode_file

    whole: float | None = None

    @contextmanager
    def open_output(sample_rate: int, channels: int, length: int | None) -> "Iterator[AudioSink]":
        nonlocal whole
        whole = None if length is None else length / sample_rate
        with open_sink(path, sample_rate, channels, length=length, raw=settings.raw) as sink:
            yield sink

    return decode_file(
        codec,
        file,
        open_output,
        start=settings.start,
        duration=settings.duration,
        conceal=settings.conceal,
        sample_rate=None if settings.raw is None else settings.raw.sample_rate,
        progress=lambda seconds: report(seconds, whole),
        fingerprint=fingerprint,
    )


@contextmanager
def _new_output(task: FileTask, overwrite: bool) -> Iterator[Path | int]:
    """A path to write to, or the descriptor of standard output."""
    if task.output is None:
        yield 1
        return
    with new_file(task.output, source=task.source, overwrite=overwrite, make_folder=task.make_folder) as temporary:
        yield temporary


def _warnings(decoded: "Decoded") -> list[str]:
    concealed = [f"concealed {lost.start:.2f} s to {lost.end:.2f} s: {lost.problem}" for lost in decoded.lost]
    return [*concealed, *decoded.problems]


def _remedy(error: "BitstreamError", settings: DecodeSettings) -> str:
    is_other = error.message.startswith("not a file of codes")
    return "" if settings.conceal or is_other else "; --conceal decodes what is whole"
