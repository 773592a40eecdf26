"""`codec roundtrip`: what a codec makes of an audio file, measured and drawn."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.cli.encode import Stages, choose_stages, parse_bitrate
from codec.cli.errors import one_line_errors
from codec.cli.log import log, printable
from codec.cli.model import load_model
from codec.cli.options import DEFAULT_MODEL, Device, Model, Overwrite
from codec.cli.output import new_file
from codec.cli.table import align
from codec.cli.trial import QUANTITIES, Trial, peak_of, read_whole, run_trial

if TYPE_CHECKING:
    from torch import Tensor

    from codec import Codec

Source = Annotated[Path, typer.Argument(metavar="IN.wav", help="WAV, FLAC or Ogg, of any rate and channel count.")]
Decoded = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT.wav", help="Where to put the decoded audio; else nowhere.")
]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", metavar="OUT.png", help="Where to draw waveforms, spectrograms and their differences."),
]
Bitrates = Annotated[
    list[int] | None,
    typer.Option(
        "--bitrate",
        parser=parse_bitrate,
        metavar="BITRATE",
        help="Of the codes of each channel, packed, such as 6000 or 6k; may be given several times. Default: the "
        "model's highest.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object; what is not a finite number is null.")]


@dataclass(frozen=True)
class Original:
    """The audio file.

    Attributes:
        file: Its path.
        seconds: How long it is.
        sample_rate: Hz.
        channels: How many.
        peak: dB; 0 is full scale.
        model: Name of the codec.
        score_rate: Hz: that of the file or of the codec, whichever is lower. What lies above, the codec leaves out.
    """

    file: str
    seconds: float
    sample_rate: int
    channels: int
    peak: float
    model: str
    score_rate: int

    def cells(self) -> list[tuple[str, str]]:
        """Names and values, as text."""
        return [
            ("file", printable(self.file)),
            ("duration", f"{self.seconds:.2f} s"),
            ("sample rate", f"{self.sample_rate} Hz"),
            ("channels", f"{self.channels}"),
            ("peak", f"{self.peak:.1f} dB"),
            ("model", self.model),
            ("scores at", f"{self.score_rate} Hz"),
        ]


def roundtrip(
    source: Source,
    bitrate: Bitrates = None,
    stages: Stages = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    output: Decoded = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Encode and decode an audio file: how small it gets, how near it comes, and how long that takes."""
    from codec.audio import AudioFileError

    if bitrate and stages:
        raise typer.BadParameter("--bitrate and --stages exclude each other")
    if bitrate and len(bitrate) > 1 and (output or picture):
        raise typer.BadParameter("--output and --picture are of one bitrate; got several")
    with (
        one_line_errors(AudioFileError),
        _file_for(output, source, overwrite) as wav,
        _file_for(picture, source, overwrite) as png,
    ):
        waveform, sample_rate = read_whole(source)
        codec = load_model(model, device)
        original = Original(
            file=str(source),
            seconds=waveform.shape[1] / sample_rate,
            sample_rate=sample_rate,
            channels=len(waveform),
            peak=peak_of(waveform),
            model=codec.name,
            score_rate=min(sample_rate, codec.sample_rate),
        )
        depths = [choose_stages(codec, each, stages) for each in bitrate or (None,)]
        _warm_up(codec)
        trials = [run_trial(codec, depth, source, wav, waveform, original.score_rate) for depth in depths]
        if picture is not None:
            with one_line_errors(ImportError):
                png.write_bytes(_draw(original, trials[0], waveform, read_whole(wav).waveform))
    _show(original, trials, as_json)
    if None in (trials[0].pesq_wb, trials[0].stoi):
        log.warning("scores that are missing need more packages: pip install 'rvq-codec[eval]'")


@contextmanager
def _file_for(path: Path | None, source: Path, overwrite: bool) -> Iterator[Path]:
    """Offer a file that becomes `path`, or one that nobody keeps."""
    if path is not None:
        with new_file(path, source=source, overwrite=overwrite) as temporary:
            yield temporary
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder) / "file"


def _warm_up(codec: "Codec") -> None:
    """Let the networks run once: the first run takes longer than those that follow."""
    import torch

    with torch.inference_mode():
        codec.decode(codec.encode(torch.zeros(1, 1, codec.sample_rate, device=codec.device)))


def _draw(original: Original, trial: Trial, waveform: "Tensor", estimate: "Tensor") -> bytes:
    """The first channel as a picture: a mean of channels would show less noise than each has."""
    from codec.evaluate.comparison import comparison
    from codec.evaluate.plots import to_png

    title = picture_title(original, trial.bitrate)
    return to_png(comparison(waveform[0].numpy(), estimate[0].numpy(), original.sample_rate, title))


def picture_title(original: Original, bitrate: float) -> str:
    """What stands above a picture of the first channel."""
    title = f"{Path(original.file).name}, {bitrate:.0f} bit/s"
    return title if original.channels == 1 else f"{title}, channel 1 of {original.channels}"


def _show(original: Original, trials: Sequence[Trial], as_json: bool) -> None:
    if as_json:
        table = {**asdict(original), "trials": [asdict(trial) for trial in trials]}
        typer.echo(json.dumps(_without_infinity(table), indent=2))
    elif len(trials) == 1:
        values = zip(QUANTITIES.values(), trials[0].cells(), strict=True)
        lines = [(quantity.label, value + quantity.unit) for quantity, value in values]
        typer.echo(align([*original.cells(), *lines], left=2))
    else:
        typer.echo(align(original.cells(), left=2))
        typer.echo()
        headings = [quantity.heading for quantity in QUANTITIES.values()]
        typer.echo(align([headings, *(trial.cells() for trial in trials)], left=0))


def _without_infinity(value: Any) -> Any:
    """JSON has neither infinity nor nan: None in their places."""
    if isinstance(value, dict):
        return {key: _without_infinity(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_infinity(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
