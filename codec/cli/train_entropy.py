"""`codec train-entropy`: tables that make the files of a model smaller."""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from codec.cli.errors import CommandError, in_one_line, one_line_errors
from codec.cli.log import log
from codec.cli.model import load_model
from codec.cli.options import Device, Overwrite
from codec.cli.output import new_file
from codec.cli.progress import Report, show_steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from codec import Codec
    from codec.bitstream.entropy import EntropyTables

BLOCK_SECONDS = 30
# Of the files, every so many are kept out to measure the saving, unless others are given for that; and the saving is
# measured on so many times less audio than was learned from.
HELD_OUT = 10

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a model, or name of one, or OWNER/NAME on the hub.")
]
AudioPaths = Annotated[list[Path], typer.Argument(metavar="AUDIO", help="Audio to learn from: files, or folders.")]
Valid = Annotated[
    Path | None,
    typer.Option("--valid", help="Folder of audio to measure the saving on. Default: a tenth of the files of AUDIO."),
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=1, help="Learn from at most so much, and measure on at most a tenth of it.")
]
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
    seconds: Seconds = 36_000,
    output: TablesFile = None,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Learn how often each code of a model follows which, for smaller files, and show what it saves."""
    from rich.console import Console

    from codec.bitstream.learn import check_size, learn_tables
    from codec.model.folder import ENTROPY_FILE, tables_bytes
    from codec.model.header import frames_per_chunk

    if output is None and not Path(model).is_dir():
        raise typer.BadParameter(f"must be given, as MODEL is no folder; got {model}", param_hint="--output")
    path = output or Path(model) / ENTROPY_FILE
    with one_line_errors(ValueError), new_file(path, source=None, overwrite=overwrite) as temporary:
        codec = load_model(model, device)
        check_size(codec.num_quantizers, codec.codebook_size)
        learned, held_out = split_audio(audio, valid)
        skipped: list[str] = []
        with show_steps(log.isEnabledFor(logging.INFO)) as report:
            frames = frames_per_chunk(codec, codec.num_quantizers)
            sequences = _encode_some(codec, learned, seconds, skipped, report, "audio to learn from")
            others = _encode_some(codec, held_out, seconds / HELD_OUT, skipped, report, "audio to measure on")
            report("learning", None)
            tables = learn_tables(sequences, codec.codebook_size, frames)
            report("measuring", None)
            saving = measure_saving(tables, others, codec.bits_per_code, frames)
        for problem in skipped:
            log.warning("skipped: %s", problem)
        if skipped:
            log.warning("files skipped: %d of %d", len(skipped), len(learned) + len(held_out))
        for purpose, codes in (("learned from", sequences), ("measured on", others)):
            typer.echo(f"{purpose} {sum(each.shape[1] for each in codes) / codec.frame_rate:.0f} s of audio")
        Console().print(saving_table(saving, codec))
        if saving.coded[-1] >= saving.packed[-1]:
            raise CommandError(
                "tables that save nothing on audio that they were not learned from are not installed; "
                "learn from more audio, or from audio more like it"
            )
        temporary.write_bytes(tables_bytes(tables, codec.fingerprint()))
        keep_replaced(path, tables, codec)


def split_audio(audio: Sequence[Path], valid: Path | None) -> tuple[list[Path], list[Path]]:
    """Files to learn from, and files to measure on, in an order that mixes speakers.

    Raises:
        CommandError: A path does not exist, or no file would be left to measure on.
        ValueError: A folder has no audio.
    """
    from codec.audio import find_audio

    for given in audio:
        if not given.exists():
            raise CommandError(f"{given}: there is no such file or folder")
    paths = [path for given in audio for path in (find_audio(given) if given.is_dir() else [given])]
    held_out = [] if valid is None else find_audio(valid)
    chance = random.Random(0)
    chance.shuffle(paths)
    chance.shuffle(held_out)
    if held_out:
        return paths, held_out
    if len(paths) < 2:
        raise CommandError("AUDIO must be two files or more, of which some are kept to measure on; or pass --valid")
    count = max(1, len(paths) // HELD_OUT)
    return paths[count:], paths[:count]


def encode_files(
    codec: "Codec",
    paths: Sequence[Path],
    seconds: float,
    skipped: list[str],
    report: Callable[[float], None] = lambda share: None,
) -> "Iterator[NDArray[np.uint16]]":
    """Codes of audio, each channel and each half minute as a sequence of its own, [num_quantizers, frames].

    Args:
        codec: In eval mode, with codebooks of at most 2 ** 16 codes.
        paths: Audio files.
        seconds: How much of it.
        skipped: Gets what is wrong with each file that cannot be read, from where on it is left out.
        report: Is told the share that is done.
    """
    import numpy as np
    import torch
    from einops import rearrange

    from codec.audio import AudioFileError, open_source, resample

    left = seconds
    for number, path in enumerate(paths):
        try:
            with open_source(path) as source, torch.inference_mode():
                for block in source.blocks(BLOCK_SECONDS * source.sample_rate):
                    if left <= 0:
                        return
                    block = block[:, : int(min(left, BLOCK_SECONDS) * source.sample_rate) or 1]
                    left -= block.shape[1] / source.sample_rate
                    waveform = resample(block, source.sample_rate, codec.sample_rate)
                    on_device = rearrange(waveform, "c t -> c 1 t").to(codec.device)
                    # As it will be once there are tables.
                    codes = codec.encode(on_device, rate_weight=codec.config.quantizer.rate_weight)
                    yield from codes.cpu().numpy().astype(np.uint16)
                    # All files are done, or all seconds.
                    report(max(number / len(paths), 1 - left / seconds))
        except AudioFileError as error:
            skipped.append(in_one_line(error))
        except ValueError as error:  # of samples beyond all level
            skipped.append(f"{path}: {in_one_line(error)}")


def measure_saving(
    tables: "EntropyTables", sequences: "Sequence[NDArray[np.integer]]", bits: int, frames_per_chunk: int
) -> Saving:
    """What tables save on codes [num_quantizers, frames] in chunks of so many frames."""
    import numpy as np

    from codec.bitstream.packing import packed_size

    chunks = [
        sequence[None, :, start : start + frames_per_chunk]
        for sequence in sequences
        for start in range(0, sequence.shape[1], frames_per_chunk)
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


def keep_replaced(path: Path, tables: "EntropyTables", codec: "Codec") -> None:
    """Keep the tables that are in a model's folder, under another name, before new ones take their place.

    Args:
        path: Where the new ones will be.
        tables: The new ones.
        codec: Whose they are.
    """
    from codec.model.folder import ENTROPY_FILE, earlier_tables_file, load_tables
    from codec.whole import write_whole

    if path.name != ENTROPY_FILE or not path.exists():
        return
    try:
        replaced, belongs_to = load_tables(path)
    except ValueError:  # nothing was ever coded with them
        return
    # Beside other weights they would be refused.
    if belongs_to == codec.fingerprint() and replaced.fingerprint != tables.fingerprint:
        kept = path.with_name(earlier_tables_file(replaced.fingerprint))
        write_whole(kept, path.read_bytes())
        log.info("files that were coded with the tables that were there need them: they are kept as %s", kept)


def _encode_some(
    codec: "Codec", paths: Sequence[Path], seconds: float, skipped: list[str], report: Report, purpose: str
) -> "list[NDArray[np.uint16]]":
    codes = list(encode_files(codec, paths, seconds, skipped, lambda share: report(f"encoding {purpose}", share)))
    if not codes:
        raise CommandError(f"no {purpose} can be read: {skipped[-1] if skipped else 'the files are empty'}")
    return codes
