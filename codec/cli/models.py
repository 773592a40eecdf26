"""`codec models`: what there is to encode with, without a network."""

import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.cli.errors import one_line_errors
from codec.cli.table import align
from codec.settings import settings_from

if TYPE_CHECKING:
    from codec.model import CodecConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ENTROPY_FILE = "entropy.safetensors"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)  # that `--model` takes
HEADINGS = ("name", "where", "Hz", "frames/s", "stages", "bit/s", "latency", "size", "entropy")

AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array with an object for each model.")]


@dataclass(frozen=True)
class Traits:
    """What the settings of a model say about it.

    Attributes:
        sample_rate: Hz.
        frame_rate: Code frames per second.
        num_quantizers: Stages.
        bitrates: Of the first stage, the first two and so on, bit/s of one channel, without entropy coding.
        latency: Algorithmic delay, ms.
    """

    sample_rate: int
    frame_rate: float
    num_quantizers: int
    bitrates: tuple[int, ...]
    latency: float


@dataclass(frozen=True)
class Listed:
    """A model in the list.

    Attributes:
        name: What `--model` takes.
        where: "shipped" or "hub cache".
        folder: What it is loaded from.
        size: Of its files, bytes.
        entropy: Whether it has tables for entropy coding.
        traits: None if it is broken.
        problem: What is broken, if it is.
    """

    name: str
    where: str
    folder: str
    size: int
    entropy: bool
    traits: Traits | None
    problem: str | None

    def cells(self) -> tuple[str, ...]:
        """As text, under `HEADINGS`."""
        size = f"{self.size / 1e6:.1f} MB"
        if self.traits is None:
            return (self.name, self.where, "broken", *[""] * 4, size, "")
        traits = self.traits
        return (
            self.name,
            self.where,
            f"{traits.sample_rate}",
            f"{traits.frame_rate:g}",
            f"{traits.num_quantizers}",
            f"{traits.bitrates[0]}-{traits.bitrates[-1]}",
            f"{traits.latency:g} ms",
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
    pretrained = Path(str(files("codec"))) / "pretrained"
    shipped = [(path.parent.name, path.parent) for path in sorted(pretrained.glob(f"*/{CONFIG_FILE}"))]
    listed = [_inspect(name, "shipped", folder) for name, folder in shipped]
    listed += [_inspect(name, "hub cache", folder) for name, folder in _repositories(cache)]
    return [model for model in listed if model is not None]


def _repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    """Repositories in a cache of the hub, and the folders that their main branch stood at when it was last fetched.

    Not by `huggingface_hub.scan_cache_dir`: it leaves out a repository of which one file is missing, without its name.
    """
    for main in sorted(cache.glob("models--*--*/refs/main")):
        repository = main.parents[1]
        name = repository.name.removeprefix("models--").replace("--", "/")
        commit = main.read_text(encoding="ascii", errors="replace").strip()
        if HUB_NAME.fullmatch(name):
            yield name, repository / "snapshots" / commit


def _inspect(name: str, where: str, folder: Path) -> Listed | None:
    """Describe a model; None if the folder holds none, or one of another program."""
    traits = problem = None
    if not (folder / CONFIG_FILE).exists():
        return None
    try:
        table = _read_json(folder / CONFIG_FILE)
        if not _is_ours(table):
            return None
        traits = _traits(_read_settings(table))
        _check_weights(folder / WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        # The file's own words may be in it, which could hold what a terminal obeys.
        problem = "".join(letter if letter.isprintable() else " " for letter in str(error))
    paths = [folder / file for file in (CONFIG_FILE, WEIGHTS_FILE, ENTROPY_FILE)]
    return Listed(
        name=name,
        where=where,
        folder=str(folder),
        size=sum(path.stat().st_size for path in paths if path.is_file()),
        entropy=paths[-1].is_file(),
        traits=None if problem else traits,
        problem=problem,
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{CONFIG_FILE}: {error}") from None


def _is_ours(table: Any) -> bool:
    """Whether a config.json is of a codec; most of the hub's are of other programs."""
    return isinstance(table, dict) and {"model", "quantizer"} <= table.keys()


def _read_settings(table: dict[str, Any]) -> "CodecConfig":
    # Not an import: that of codec.model loads torch, which takes two seconds, and its settings need nothing.
    config_class = runpy.run_path(str(files("codec") / "model" / "config.py"))["CodecConfig"]
    try:
        return settings_from(table, config_class)
    except ValueError as error:
        raise ValueError(f"{CONFIG_FILE}: {error}") from None


def _traits(config: "CodecConfig") -> Traits:
    """What `Codec` says of itself, without building it."""
    model, quantizer = config.model, config.quantizer
    if min(model.sample_rate, model.hop_length, quantizer.num_quantizers, quantizer.codebook_size - 1) < 1:
        raise ValueError(f"{CONFIG_FILE}: rate, hop length, stages and codebooks must be positive; some are not")
    frame_rate = model.sample_rate / model.hop_length
    stage_bitrate = frame_rate * (quantizer.codebook_size - 1).bit_length()
    return Traits(
        sample_rate=model.sample_rate,
        frame_rate=frame_rate,
        num_quantizers=quantizer.num_quantizers,
        bitrates=tuple(round(stages * stage_bitrate) for stages in range(1, quantizer.num_quantizers + 1)),
        latency=1000 * (model.hop_length + model.look_ahead) / model.sample_rate,
    )


def _check_weights(path: Path) -> None:
    """Read the header of the weights, which knows how long the file must be."""
    from safetensors import SafetensorError, safe_open

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
