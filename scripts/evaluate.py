"""Score a codec on a folder of audio, at several bitrates: `scripts/evaluate --help`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from codec import Codec
from codec.audio import AudioFileError, find_audio
from codec.cli.encode import parse_bitrate
from codec.cli.errors import one_line_errors
from codec.corpora.manifest import read_manifest
from codec.evaluate import ROW_HEADINGS, STAGE_HEADINGS, evaluate, markdown_table, usual_bitrates


def main(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="With audio files in it or below; or a manifest of them.")
    ],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder that holds one.")] = "speech_16khz",
    bitrate: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_bitrate,
            metavar="BIT/S",
            help="Before entropy coding; may be given several times. Default: those of a quarter, half and all stages.",
        ),
    ] = None,
    unquantized: Annotated[bool, typer.Option(help="Also score the latents decoded without the quantizer.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes that score; PESQ takes most of the time.")] = 1,
    device: Annotated[str, typer.Option(help="Where the codec runs: cpu, cuda, ...")] = "cpu",
) -> None:
    """Print Markdown tables of the bitrates on disk, with their quality and speed, and of the use of every stage."""
    with one_line_errors(AudioFileError, ImportError, RuntimeError, ValueError):
        clips = [clip.path for clip in read_manifest(source)] if source.is_file() else find_audio(source)
        codec = Codec.from_pretrained(model).to(device)
        progress = track(clips, f"{len(clips)} clips", console=Console(stderr=True), transient=True)
        report = evaluate(codec, progress, bitrate or usual_bitrates(codec), unquantized=unquantized, jobs=jobs)
    print(f"Model {codec.name} ({codec.fingerprint()}) on {device}\n")
    print(markdown_table(ROW_HEADINGS, [row.cells() for row in report.rows]))
    print()
    print(markdown_table(STAGE_HEADINGS, report.stage_cells()))


if __name__ == "__main__":
    typer.run(main)
