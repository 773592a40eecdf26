"""`codec info`: what a file of codes holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.code_file import read_code_file
from codec.cli.errors import one_line_errors

if TYPE_CHECKING:
    from codec.bitstream import Header

PCM_BYTES = 2

Source = Annotated[Path, typer.Argument(metavar="FILE.rvq", help="File of codes.")]


def info(source: Source) -> None:
    """Show what a file of codes holds, after checking every byte of it. Needs no model."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    with one_line_errors():
        header = read_code_file(source).header
        table = Table(show_header=False)
        for name, value in describe(header, source.stat().st_size).items():
            table.add_row(name, Text(value))  # not a str: a name in a file could hold rich's markup
        Console().print(table)


def describe(header: "Header", size: int) -> dict[str, str]:
    """Names and values to show for a file of `size` bytes."""
    pcm_size = PCM_BYTES * header.channels * header.length
    return {
        "model": header.model,
        "fingerprint": header.fingerprint,
        "sample rate": f"{header.sample_rate} Hz",
        "channels": f"{header.channels}",
        "length": f"{header.length} samples",
        "duration": f"{header.duration:.3f} s",
        "stages": f"{header.num_quantizers}",
        "bits per code": f"{header.bits}",
        "frames": f"{header.num_frames}",
        "frames per chunk": f"{header.frames_per_chunk}",
        "size": f"{size} bytes",
        "bitrate on disk": f"{8 * size / header.duration:.0f} bit/s",
        "compression": f"{pcm_size / size:.1f} times smaller than 16-bit PCM",
    }
