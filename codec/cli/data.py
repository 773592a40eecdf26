"""`codec data`: audio to train on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.errors import one_line_errors
from codec.cli.options import Overwrite
from codec.cli.output import new_file

if TYPE_CHECKING:
    from codec.corpora.corpus import Corpus

app = typer.Typer(no_args_is_help=True, help="Download LibriSpeech; list audio in manifests.")

Root = Annotated[Path, typer.Option("--root", help="Folder that holds LibriSpeech/SPLIT, or shall hold it.")]
Splits = Annotated[list[str], typer.Option("--split", help="For example train-clean-100; may be given several times.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Audio files, in it or below; FOLDER/SPEAKER/...")]
Manifest = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="FILE.tsv or FILE.jsonl.")]
MinSeconds = Annotated[float, typer.Option("--min-seconds", min=0, help="Shorter files are left out.")]


@app.command()
def librispeech(splits: Splits, root: Root = Path("data")) -> None:
    """Download splits of LibriSpeech; a copy that is there already is used as it is."""
    with one_line_errors(ValueError, ImportError):
        from codec.corpora.corpus import find_clips
        from codec.train.download import download_librispeech

        for split in splits:
            folder = download_librispeech(root, split)
            _show(folder, find_clips(folder))


@app.command()
def manifest(folder: Folder, output: Manifest, min_seconds: MinSeconds = 0.5, overwrite: Overwrite = False) -> None:
    """Write a list of a folder's audio, so that training need not look through it: path, duration and speaker."""
    from codec.corpora.corpus import find_clips
    from codec.corpora.manifest import format_manifest

    with one_line_errors(ValueError), new_file(output, source=folder, overwrite=overwrite) as temporary:
        format_manifest([], output)  # a suffix that is unknown is so before all files are opened
        corpus = find_clips(folder, min_seconds)
        temporary.write_bytes(format_manifest(corpus.clips, output))
    _show(output, corpus)


def _show(where: Path, corpus: "Corpus") -> None:
    clips, skipped = corpus
    hours = sum(clip.seconds for clip in clips) / 3600
    speakers = len({clip.speaker for clip in clips if clip.speaker})
    typer.echo(f"{where}: {len(clips)} clips, {hours:.1f} h, {speakers} speakers, {len(skipped)} files skipped")
    for path, reason in skipped.items():
        typer.echo(f"skipped {path}: {reason}", err=True)
