"""Hear with instruments what a codec does to speech: `scripts/listen --help`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from codec import Codec
from codec.audio import AudioFileError, find_audio, write_audio
from codec.cli.encode import parse_bitrate
from codec.cli.errors import one_line_errors
from codec.corpora.folder import list_folder
from codec.evaluate import markdown_table, pesq_wb, stoi
from codec.evaluate.artefacts import Artefacts, artefacts, noise_floor, signal_level
from codec.evaluate.metrics import mean_of_known
from codec.evaluate.plots import spectrograms, to_png
from codec.evaluate.report import load_clip

# A heading and a format for each measurement; all but the scores and metallic are in dB.
COLUMNS = {
    "PESQ-WB": ".2f",
    "STOI": ".3f",
    "fricatives": "+.1f",
    "< 1 kHz": "+.1f",
    "1-4 kHz": "+.1f",
    "4-8 kHz": "+.1f",
    "metallic": "+.2f",
    "tone": "+.1f",
    "voiced HNR": "+.1f",
    "unvoiced HNR": "+.1f",
    "pre-echo": "+.1f",
    "level": ".0f",
    "noise": ".0f",
}


class Clip(NamedTuple):
    """An audio file.

    Attributes:
        path: Where it is.
        name: Of its picture and its decoded audio.
        speaker: Who speaks.
    """

    path: Path
    name: str
    speaker: str


class Measured(NamedTuple):
    """A clip, and what the codec made of it: numbers in the order of `COLUMNS`."""

    clip: Clip
    values: tuple[float, ...]

    @property
    def pesq(self) -> float:
        """nan if there is nothing to judge."""
        return self.values[0]


def main(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Audio files are looked for here and below.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder that holds one.")] = "speech_16khz",
    bitrate: Annotated[
        int | None,
        typer.Option(
            parser=parse_bitrate, metavar="BIT/S", help="Before entropy coding. Default: the model's highest."
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the clips with the lowest PESQ are told.")] = 5,
    clips: Annotated[int, typer.Option(min=0, help="How many clips of different speakers are drawn.")] = 5,
    output: Annotated[Path, typer.Option(help="Folder for pictures and decoded audio.")] = Path("listening"),
    device: Annotated[str, typer.Option(help="Where the codec runs: cpu, cuda, ...")] = "cpu",
) -> None:
    """Draw clips of different speakers, and print as a Markdown table what is wrong with the worst ones.

    The worst clips by PESQ are drawn, too. The last line of the table has the means over all clips. What the columns
    are: codec/evaluate/artefacts.py.
    """
    with one_line_errors(AudioFileError, ImportError, RuntimeError, ValueError):
        found = find_clips(folder)
        codec = Codec.from_pretrained(model).to(device)
        stages = codec.num_quantizers if bitrate is None else codec.stages_at(bitrate)
        progress = track(found, f"{len(found)} clips", console=Console(stderr=True), transient=True)
        measured = [measure(codec, clip, stages) for clip in progress]
        lowest = sorted((one for one in measured if not math.isnan(one.pesq)), key=lambda one: one.pesq)[:worst]
        output.mkdir(parents=True, exist_ok=True)
        for clip in one_a_speaker(found, clips):
            draw(codec, clip, stages, output / clip.name)
        for place, one in enumerate(lowest, start=1):
            draw(codec, one.clip, stages, output / f"worst-{place}-{one.clip.name}")
    print(f"Model {codec.name} ({codec.fingerprint()}) with {stages} stages, {len(found)} clips\n")
    means = tuple(map(mean_of_known, zip(*(one.values for one in measured), strict=True)))
    rows = [*((one.clip.name, *cells(one.values)) for one in lowest), ("mean of all", *cells(means))]
    print(markdown_table(("clip", *COLUMNS), rows))


def find_clips(folder: Path) -> list[Clip]:
    """All audio in a folder and below.

    Names tell the clips apart: where those of the files do not, the folders above are part of them, and where these do
    not either, as with a-b/1.wav and a/b-1.wav, the place in the list is.

    Raises:
        ValueError: There is none.
    """
    paths = find_audio(folder)
    recordings = list(list_folder(folder, [path.relative_to(folder).as_posix() for path in paths]))
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [recording.id.replace("/", "-") for recording in recordings]
    if len(set(names)) < len(names):
        names = [f"{name}-{place}" for place, name in enumerate(names, start=1)]
    # Files of LibriSpeech, of which some lie side by side, begin with the number of the speaker.
    return [
        Clip(path, name, recording.speaker or path.stem.split("-")[0])
        for path, name, recording in zip(paths, names, recordings, strict=True)
    ]


def one_a_speaker(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The first clip of each of so many speakers, or of all."""
    firsts = {clip.speaker: clip for clip in reversed(clips)}
    return [firsts[speaker] for speaker in sorted(firsts)[:count]]


@torch.inference_mode()
def code(codec: Codec, clip: Clip, stages: int) -> tuple[Tensor, Tensor]:
    """A clip as it is, and encoded and decoded, both [time]."""
    original = load_clip(clip.path, codec.sample_rate)
    decoded = codec.decode(codec.encode(original[None, None].to(codec.device), stages, rate_weight=codec.rate_weight))
    return original, decoded[0, 0, : len(original)].clamp(-1, 1).cpu()


def measure(codec: Codec, clip: Clip, stages: int) -> Measured:
    """Code a clip once."""
    original, decoded = code(codec, clip, stages)
    rate = codec.sample_rate
    found: Artefacts = artefacts(original.numpy(), decoded.numpy(), rate)
    scores = (pesq_wb(original, decoded, rate), stoi(original, decoded, rate))
    return Measured(clip, (*scores, *found, signal_level(original.numpy(), rate), noise_floor(original.numpy(), rate)))


def draw(codec: Codec, clip: Clip, stages: int, path: Path) -> None:
    """Write spectrograms to `path` and ".png", and the decoded audio to `path` and ".wav"."""
    original, decoded = code(codec, clip, stages)
    figure = spectrograms(original.numpy(), decoded.numpy(), codec.sample_rate)
    path.with_name(f"{path.name}.png").write_bytes(to_png(figure))
    write_audio(path.with_name(f"{path.name}.wav"), decoded[None], codec.sample_rate)


def cells(values: Sequence[float]) -> list[str]:
    """As text, under `COLUMNS`."""
    return [
        "-" if math.isnan(value) else format(value, form) for value, form in zip(values, COLUMNS.values(), strict=True)
    ]


if __name__ == "__main__":
    typer.run(main)
