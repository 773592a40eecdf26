"""`codec models`: what there is to encode with, without a network."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from codec.cli.errors import one_line_errors
from codec.cli.log import printable
from codec.cli.table import align

HEADINGS = ("name", "where", "Hz", "frames/s", "stages", "bit/s packed", "latency", "size", "entropy")

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array with an object for each model.")]


@dataclass(frozen=True)
class Listed:
    """A model in the list.

    Attributes:
        name: What `--model` takes.
        where: "shipped" or "hub cache".
        folder: What it is loaded from.
        size: Of its files, bytes.
        entropy: Whether it has tables for entropy coding.
        problem: What is broken, if it is. Then nothing is known of what follows, and it is None.
        sample_rate: Hz.
        frame_rate: Code frames per second.
        bitrates: Of the first stage, the first two and so on, bit/s of one channel, without entropy coding.
        latency: Algorithmic delay, ms.
    """

    name: str
    where: str
    folder: str
    size: int
    entropy: bool
    problem: str | None = None
    sample_rate: int | None = None
    frame_rate: float | None = None
    bitrates: list[int] | None = None
    latency: float | None = None

    def cells(self) -> tuple[str, ...]:
        """As text, under `HEADINGS`."""
        size = f"{self.size / 1e6:.1f} MB"
        if self.bitrates is None:
            return (self.name, self.where, "broken", *[""] * 4, size, "")
        return (
            self.name,
            self.where,
            f"{self.sample_rate}",
            f"{self.frame_rate:g}",
            f"{len(self.bitrates)}",
            f"{self.bitrates[0]}-{self.bitrates[-1]}",
            f"{self.latency:g} ms",
            size,
            "yes" if self.entropy else "no",
        )


def models(as_json: AsJson = False) -> None:
    """List the models that are shipped, and those in the local cache of the Hugging Face hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    with one_line_errors():
        listed = list_models(Path(HF_HUB_CACHE))
    if as_json:
        typer.echo(json.dumps([asdict(model) for model in listed], indent=2))
    else:
        _show(listed)


def list_models(cache: Path) -> list[Listed]:
    """Shipped models first, then those in a cache of the hub, each in order of their names.

    Args:
        cache: Folder that the hub's library downloads to; it may be missing. Repositories of other programs in it are
            left out.
    """
    from codec.model.folder import shipped_models

    listed = [_inspect(name, "shipped", folder) for name, folder in shipped_models().items()]
    listed += [_inspect(name, "hub cache", folder) for name, folder in _repositories(cache)]
    return [model for model in listed if model is not None]


def _repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    """Repositories in a cache of the hub, and the folders that their main branch stood at when it was last fetched.

    Not by `huggingface_hub.scan_cache_dir`: it leaves out a repository of which one file is missing, without its name.
    """
    from codec.model.folder import HUB_NAME

    for main in sorted(cache.glob("models--*--*/refs/main")):
        repository = main.parents[1]
        name = repository.name.removeprefix("models--").replace("--", "/")
        commit = main.read_text(encoding="ascii", errors="replace").strip()
        if HUB_NAME.fullmatch(name):
            yield name, repository / "snapshots" / commit


def _inspect(name: str, where: str, folder: Path) -> Listed | None:
    """Describe a model; None if the folder holds none, or one of another program."""
    from codec.model.folder import CONFIG_FILE, ENTROPY_FILE, WEIGHTS_FILE, load_config, tables_files

    if not (folder / CONFIG_FILE).exists() or _is_of_another_program(folder / CONFIG_FILE):
        return None
    paths = [folder / CONFIG_FILE, folder / WEIGHTS_FILE, *tables_files(folder)]
    listed = Listed(
        name=name,
        where=where,
        folder=str(folder),
        size=sum(path.stat().st_size for path in paths if path.is_file()),
        entropy=(folder / ENTROPY_FILE).is_file(),
    )
    try:
        config = load_config(folder)
        model, quantizer = config.model, config.quantizer
        if min(model.sample_rate, model.hop_length, quantizer.num_quantizers, quantizer.codebook_size - 1) < 1:
            raise ValueError(f"{CONFIG_FILE}: rate, hop length, stages and codebooks must be positive; some are not")
        _check_weights(folder)
        return replace(
            listed,
            sample_rate=model.sample_rate,
            frame_rate=model.frame_rate,
            bitrates=[round(bitrate) for bitrate in config.bitrates],
            latency=1000 * model.latency,
        )
    except (OSError, ValueError) as error:
        # The file's own words may be in it, which could hold what a terminal obeys.
        return replace(listed, problem=printable(str(error)))


def _is_of_another_program(path: Path) -> bool:
    """Whether a config.json is whole, but not of a codec, as most of the hub's are."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not (isinstance(table, dict) and {"model", "quantizer"} <= table.keys())


def _check_weights(folder: Path) -> None:
    """Read the header of the weights, which knows how long the file must be."""
    from safetensors import SafetensorError, safe_open

    from codec.model.folder import WEIGHTS_FILE

    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise ValueError(f"{WEIGHTS_FILE} is missing")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS_FILE}: {error}") from None


def _show(listed: list[Listed]) -> None:
    typer.echo(align([HEADINGS, *(model.cells() for model in listed)], left=2))
    for model in listed:
        if model.problem is not None:
            typer.echo(f"{model.name} is broken: {model.problem}")
