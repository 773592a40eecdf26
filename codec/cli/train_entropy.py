"""`codec train-entropy`: tables that make the files of a model smaller."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from codec.cli.errors import CommandError, one_line_errors
from codec.cli.model import load_model
from codec.cli.options import Overwrite
from codec.cli.output import new_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from codec import Codec
    from codec.bitstream.entropy import EntropyTables

BLOCK_SECONDS = 30
# Of the audio, every so many files are kept out to measure the saving, unless others are given for that.
HELD_OUT = 10

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a model, or name of one, or OWNER/NAME on the hub.")
]
AudioPaths = Annotated[list[Path], typer.Argument(metavar="AUDIO", help="Audio to learn from: files, or folders.")]
Valid = Annotated[
    Path | None,
    typer.Option("--valid", help="Folder of audio to measure the saving on. Default: a tenth of the files of AUDIO."),
]
Seconds = Annotated[float | None, typer.Option("--seconds", min=1, help="Learn from at most so much. Default: all.")]
TablesFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Default: entropy.safetensors in MODEL, if it is a folder."),
]


class Saving(NamedTuple):
    """What entropy coding saves on some codes.

    Attributes:
        ideal: Bits that the tables say for a code of each stage.
        coded: Bytes of all chunks with the first 1, 2, ... stages.
        packed: Bytes of the same chunks without entropy coding.
    """

    ideal: "NDArray[np.float64]"
    coded: list[int]
    packed: list[int]


def train_entropy(
    model: ModelArgument,
    audio: AudioPaths,
    valid: Valid = None,
    seconds: Seconds = None,
    output: TablesFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Learn how often each code of a model follows which, for smaller files, and show what it saves."""
    from rich.console import Console

    from codec.audio import AudioFileError
    from codec.bitstream.learn import learn_tables
    from codec.model.folder import ENTROPY_FILE, tables_bytes

    if output is None and not Path(model).is_dir():
        raise typer.BadParameter(f"must be given, as MODEL is no folder; got {model}", param_hint="--output")
    with (
        one_line_errors(AudioFileError, ValueError),
        new_file(output or Path(model) / ENTROPY_FILE, source=None, overwrite=overwrite) as temporary,
    ):
        codec = load_model(model)
        learned, held_out = split_audio(audio, valid)
        sequences = list(encode_files(codec, learned, seconds))
        tables = learn_tables(sequences, codec.codebook_size)
        saving = measure_saving(tables, list(encode_files(codec, held_out)), codec.bits_per_code)
        temporary.write_bytes(tables_bytes(tables, codec.fingerprint()))
        typer.echo(f"learned from {sum(each.shape[1] for each in sequences) / codec.frame_rate:.0f} s of audio")
        Console().print(saving_table(saving, codec))


def split_audio(audio: Sequence[Path], valid: Path | None) -> tuple[list[Path], list[Path]]:
    """Files to learn from, in an order that mixes speakers, and files to measure on.

    Raises:
        CommandError: No file would be left to measure on.
        ValueError: A folder has no audio.
    """
    from codec.audio import find_audio

    paths = [path for given in audio for path in (find_audio(given) if given.is_dir() else [given])]
    random.Random(0).shuffle(paths)
    if valid is not None:
        return paths, find_audio(valid)
    if len(paths) < 2:
        raise CommandError("AUDIO must be two files or more, of which some are kept to measure on; or pass --valid")
    count = max(1, len(paths) // HELD_OUT)
    return paths[count:], paths[:count]


def encode_files(codec: "Codec", paths: Sequence[Path], seconds: float | None = None) -> "Iterator[NDArray[np.int64]]":
    """Codes of audio, each channel and each half minute as a sequence of its own, [num_quantizers, frames].

    Args:
        codec: In eval mode.
        paths: Audio files.
        seconds: How much of it.

    Raises:
        AudioFileError: A file cannot be read.
    """
    import torch
    from einops import rearrange

    from codec.audio import open_source, resample

    left = float("inf") if seconds is None else seconds
    for path in paths:
        with open_source(path) as source, torch.inference_mode():
            for block in source.blocks(BLOCK_SECONDS * source.sample_rate):
                if left <= 0:
                    return
                block = block[:, : int(min(left, BLOCK_SECONDS) * source.sample_rate) or 1]
                left -= block.shape[1] / source.sample_rate
                waveform = resample(block, source.sample_rate, codec.sample_rate)
                yield from codec.encode(rearrange(waveform, "c t -> c 1 t")).numpy()


def measure_saving(tables: "EntropyTables", sequences: "Sequence[NDArray[np.int64]]", bits: int) -> Saving:
    """What tables save on codes [num_quantizers, frames] in chunks of `FRAMES_PER_CHUNK`."""
    import numpy as np

    from codec.bitstream.packing import packed_size
    from codec.bitstream.stream import FRAMES_PER_CHUNK

    chunks = [
        sequence[None, :, start : start + FRAMES_PER_CHUNK]
        for sequence in sequences
        for start in range(0, sequence.shape[1], FRAMES_PER_CHUNK)
    ]
    ideal = np.sum([tables.bits(chunk) for chunk in chunks], axis=0) / sum(chunk.shape[2] for chunk in chunks)
    stages = range(1, tables.num_quantizers + 1)
    coded = [sum(len(tables.encode(chunk[:, :stage])) for chunk in chunks) for stage in stages]
    packed = [sum(packed_size(bits, stage * chunk.shape[2]) for chunk in chunks) for stage in stages]
    return Saving(ideal, coded, packed)


def saving_table(saving: Saving, codec: "Codec") -> "Table":
    """A row a stage: its own bits, and the size with all stages up to it."""
    from rich.table import Table

    table = Table("stage", "bits/code", "packed", "saved", "up to it: bit/s packed", "coded", "saved")
    bits = codec.bits_per_code
    for stage, (ideal, coded, packed) in enumerate(zip(*saving, strict=True), start=1):
        rate = codec.bitrate(stage)
        table.add_row(
            f"{stage}", f"{ideal:.2f}", f"{bits}", f"{1 - ideal / bits:.1%}",
            f"{rate:.0f}", f"{rate * coded / packed:.0f}", f"{1 - coded / packed:.1%}",
        )  # fmt: skip
    return table
