"""Recipes of language models: TOML files that say everything about a training run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codec.choose import choose
from codec.settings import load_settings

# float16 needs its losses scaled, which nobody has tried here.
PRECISIONS = ("no", "bf16", "auto")

# Settings by table.
POSITIVE = {
    "data": ("window_steps", "batch_size"),
    "model": ("hidden_size", "layers", "heads", "feed_forward", "max_steps"),
    "optimizer": ("learning_rate", "max_gradient_norm"),
    "run": ("steps", "log_every", "save_every", "validate_every", "keep"),
}
NOT_NEGATIVE = {"data": ("num_quantizers",), "optimizer": ("warmup_steps", "weight_decay")}


@dataclass(frozen=True)
class CorpusConfig:
    """Where sequences come from.

    Attributes:
        root: Folder that the next two are relative to.
        train: What to train on: a folder that `codec tokenize` made.
        valid: What to validate on, likewise.
        num_quantizers: Stages of the codes. 0: those of the token files, which are then read memory-mapped; otherwise
            sequences are made from the codes in the Parquet shards.
        pattern: Order of the codes, a name in `codec.tokens.PATTERNS`; likewise, "" is that of the token files.
        window_steps: The longest part of a sequence that is an example, in steps.
        batch_size: Examples of a step, of all processes together.
    """

    root: str = "tokens"
    train: str = "train"
    valid: str = "valid"
    num_quantizers: int = 0
    pattern: str = ""
    window_steps: int = 1024
    batch_size: int = 8


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of the transformer, and what it begins with.

    Attributes:
        hidden_size: Channels.
        layers: Of attention and feed-forward networks.
        heads: Of each attention.
        feed_forward: Channels inside each feed-forward network.
        max_steps: The longest sequence that it can be asked about, in steps.
        dropout: Share of the channels of the embeddings that a training step leaves out.
        codec: The codec whose code vectors the embeddings begin with, so that similar codes are similar from the start:
            a name, folder or hub name. "": random ones.
    """

    hidden_size: int = 256
    layers: int = 6
    heads: int = 4
    feed_forward: int = 704
    max_steps: int = 2048
    dropout: float = 0.0
    codec: str = ""


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW, with a warm-up and then half a cosine.

    Attributes:
        learning_rate: The highest.
        warmup_steps: Until it is reached.
        betas: Of the moments.
        weight_decay: Of matrices.
        max_gradient_norm: Longer gradients are shortened to it.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0


@dataclass(frozen=True)
class LMRunConfig:
    """How long, how, and what it leaves.

    Attributes:
        steps: In all.
        seed: Of weights, examples and dropout.
        mixed_precision: "no", "bf16", or "auto": bfloat16 where the hardware has it.
        trackers: Of Accelerate; TensorBoard writes into the folder of the run.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations.
        keep: Checkpoints that are kept.
    """

    steps: int = 1000
    seed: int = 0
    mixed_precision: str = "auto"
    trackers: tuple[str, ...] = ("tensorboard",)
    log_every: int = 50
    save_every: int = 250
    validate_every: int = 250
    keep: int = 2


@dataclass(frozen=True)
class LMRecipe:
    """Everything about a training run: what a recipe file holds, table by table."""

    name: str
    data: CorpusConfig = field(default_factory=CorpusConfig)
    model: TransformerConfig = field(default_factory=TransformerConfig)
    optimizer: AdamWConfig = field(default_factory=AdamWConfig)
    run: LMRunConfig = field(default_factory=LMRunConfig)


def load_lm_recipe(path: str | Path, overrides: Sequence[str] = ()) -> LMRecipe:
    """Read a recipe.

    Args:
        path: A TOML file.
        overrides: Lines of TOML that replace single settings, such as "model.layers = 8".

    Raises:
        ValueError: Not TOML, or a setting that is unknown (with the nearest known one), of another type or out of
            range.
        OSError: The file cannot be read.
    """
    recipe = load_settings(path, LMRecipe, overrides)
    for name, value in _named(recipe, POSITIVE):
        if value <= 0:
            raise ValueError(f"{name} must be positive; got {value}")
    for name, value in _named(recipe, NOT_NEGATIVE):
        if value < 0:
            raise ValueError(f"{name} must not be negative; got {value}")
    choose(dict.fromkeys(PRECISIONS), recipe.run.mixed_precision, "run.mixed_precision")
    if not 0 <= recipe.model.dropout < 1:
        raise ValueError(f"model.dropout must be from 0 to below 1; got {recipe.model.dropout}")
    if not all(0 <= beta < 1 for beta in recipe.optimizer.betas):
        raise ValueError(f"optimizer.betas must be from 0 to below 1; got {recipe.optimizer.betas}")
    if recipe.model.hidden_size % (2 * recipe.model.heads):
        raise ValueError(
            f"model.hidden_size must be an even multiple of model.heads {recipe.model.heads}; "
            f"got {recipe.model.hidden_size}"
        )
    return recipe


def _named(recipe: LMRecipe, tables: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, float]]:
    """Some settings, by their full names."""
    for table, names in tables.items():
        for name in names:
            yield f"{table}.{name}", getattr(getattr(recipe, table), name)
