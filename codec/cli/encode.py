"""`codec encode`: audio -> files of codes."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.batch import Report, Work
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
from codec.cli.output import OutputExistsError, open_output

if TYPE_CHECKING:
    from codec import Codec
    from codec.audio import AudioSource, RawFormat


def parse_bitrate(text: str) -> int:
    """Read a bitrate: `6000`, `6k` and `1.5k` are in bit/s.

    Raises:
        ValueError: It is none.
    """
    number, kilo = (text[:-1], 1000) if text[-1:] in ("k", "K") else (text, 1)
    is_number = number.isascii() and number.replace(".", "", 1).isdecimal()
    bitrate = round(float(number) * kilo) if is_number else 0
    if not bitrate:
        raise ValueError(f"bitrate must be bit/s, such as 6000 or 1.5k; got {text!r}")
    return bitrate


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Audio files of any format, rate and channel count; folders of them; - is standard input.",
    ),
]
Bitrate = Annotated[
    int | None,
    typer.Option(
        "--bitrate",
        parser=parse_bitrate,
        metavar="BIT/S",
        help="Of the codes of each channel, packed: 6000, 6k, 1.5k; one that the model has. Default: its highest. "
        "Entropy coding makes the file smaller.",
    ),
]
Stages = Annotated[int | None, typer.Option("--stages", min=1, help="Stages of the model, instead of a bitrate.")]
BeamSize = Annotated[
    int | None,
    typer.Option(
        "--beam-size",
        min=1,
        help="Sequences of codes kept in the search: more are nearer, and take longer. Default: that of the model.",
    ),
]
Entropy = Annotated[
    bool | None,
    typer.Option(
        "--entropy/--no-entropy",
        help="Entropy-code the codes, and choose them for that. Default: if the model has the tables.",
    ),
]
Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="RATE:CHANNELS:ENCODING",
        help="The input has no header: 16000:1:s16, for example. Encodings: u8, s16, s24, s32, f32.",
    ),
]

# Of files in folders, if there is --raw.
RAW_SUFFIXES = {".pcm", ".raw"}


@dataclass(frozen=True)
class EncodeSettings:
    """All that is the same for each file, as it is sent to other processes.

    Attributes:
        model: As in `Codec.from_pretrained`.
        device: Where it runs.
        jobs: Processes that share the cores.
        bitrate: Bit/s of each channel; None: `stages`.
        stages: None: all.
        beam_size: As in `Codec.encode`.
        entropy: None: if the model has tables.
        raw: Of input without a header.
        overwrite: Whether outputs may exist.
        skip_existing: Whether an output that came to exist is no error.
    """

    model: str
    device: str
    jobs: int
    bitrate: int | None
    stages: int | None
    beam_size: int | None
    entropy: bool | None
    raw: "RawFormat | None"
    overwrite: bool
    skip_existing: bool


def encode(
    sources: Sources,
    output: Outputs = None,
    bitrate: Bitrate = None,
    stages: Stages = None,
    beam_size: BeamSize = None,
    entropy: Entropy = None,
    raw: Raw = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    jobs: Jobs = 1,
    recursive: Recursive = False,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
) -> None:
    """Compress audio to files of codes (.rvq).

    Nothing is normalized: quiet and clipped audio is coded as it is.
    """
    if bitrate is not None and stages is not None:
        raise typer.BadParameter("--bitrate and --stages exclude each other")
    check_existing(overwrite, skip_existing)
    raw_format = read_raw(raw)

    from codec.audio import AUDIO_SUFFIXES

    suffixes = AUDIO_SUFFIXES if raw_format is None else RAW_SUFFIXES
    tasks = plan_tasks(sources, output, suffixes=suffixes, new_suffix=".rvq", recursive=recursive)
    settings = EncodeSettings(
        model, device, jobs, bitrate, stages, beam_size, entropy, raw_format, overwrite, skip_existing
    )
    convert_files(tasks, partial(start_encoding, settings), jobs=jobs, overwrite=overwrite, skip_existing=skip_existing)


def start_encoding(settings: EncodeSettings) -> Work[FileTask, Converted]:
    """Load the model.

    Returns:
        What encodes a file.

    Raises:
        CommandError: There is no such model or device, or the model has no such bitrate, stages or tables.
    """
    share_threads(settings.jobs)
    codec = load_model(settings.model, settings.device)
    stages = choose_stages(codec, settings.bitrate, settings.stages)
    if settings.entropy and codec.entropy is None:
        raise CommandError(
            f"--entropy needs a model with tables, which {codec.name} lacks; codec train-entropy makes them"
        )
    return partial(_encode_file, codec, codec.fingerprint(), settings, stages)


def choose_stages(codec: "Codec", bitrate: int | None, stages: int | None) -> int:
    """How many stages a bitrate, or their number, asks for; with neither, all.

    Raises:
        CommandError: The model has no such bitrate, or not so many stages.
    """
    if bitrate is not None:
        try:
            return codec.stages_at(bitrate)
        except ValueError as error:
            raise CommandError(str(error)) from error
    stages = codec.num_quantizers if stages is None else stages
    if stages > codec.num_quantizers:
        raise CommandError(f"stages must be 1 to {codec.num_quantizers}, as the model {codec.name} has; got {stages}")
    return stages


def _encode_file(
    codec: "Codec", fingerprint: str, settings: EncodeSettings, stages: int, task: FileTask, report: Report
) -> Converted:
    from codec.audio import AudioFileError, open_source
    from codec.transcode import encode_source

    try:
        with (
            open_output(
                task.output, source=task.source, overwrite=settings.overwrite, make_folder=task.make_folder
            ) as file,
            open_source(0 if task.source is None else task.source, settings.raw) as source,
        ):
            whole = _seconds(source)
            encoded = encode_source(
                codec,
                source,
                file,
                num_quantizers=stages,
                beam_size=settings.beam_size,
                entropy=settings.entropy,
                progress=lambda seconds: report(seconds, whole),
                fingerprint=fingerprint,
            )
    except OutputExistsError:
        if settings.skip_existing:
            return SKIPPED
        raise
    except AudioFileError as error:
        raise CommandError(str(error)) from error
    except ValueError as error:
        raise CommandError(f"{task.name}: {error}") from error
    return Converted(encoded.seconds, encoded.num_bytes, [encoded.warning] if encoded.warning else [])


def _seconds(source: "AudioSource") -> float | None:
    return None if source.stated_length is None else source.stated_length / source.sample_rate
