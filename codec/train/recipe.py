"""Recipes: TOML files that say everything about a training run."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig
from codec.settings import settings_from


@dataclass(frozen=True)
class DataConfig:
    """Where audio comes from.

    Attributes:
        root: Folder that holds the splits, in the LibriSpeech layout.
        train: Name of the split to train on.
        valid: Name of the split to validate on.
        crop_seconds: Length of a training example.
        batch_size: Examples of a step, on all processes together.
        gain_db: Range of the random gain, dB.
        workers: Processes that read audio, for each training process.
    """

    root: str = "LibriSpeech"
    train: str = "train-clean-100"
    valid: str = "dev-clean"
    crop_seconds: float = 1.0
    batch_size: int = 16
    gain_db: tuple[float, float] = (0.0, 0.0)
    workers: int = 1


@dataclass(frozen=True)
class LossConfig:
    """What is minimized. The first five are weights; see `codec.losses` for what they weigh.

    Attributes:
        log_mel: Of the log-mel distance.
        stft: Of the complex-STFT distance.
        waveform: Of the waveform distance.
        commitment: Of the commitment loss.
        codebook: Of the codebook loss, where codebooks learn by gradient.
        window_lengths: Resolutions of the spectra, samples.
        num_mels: Mel bands of each resolution.
        power: Compression of the complex spectra.
    """

    log_mel: float = 1.0
    stft: float = 1.0
    waveform: float = 1.0
    commitment: float = 0.25
    codebook: float = 1.0
    window_lengths: tuple[int, ...] = (2048, 1024, 512, 256)
    num_mels: tuple[int, ...] = (80, 64, 40, 20)
    power: float = 0.3


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, warmed up linearly and then lowered to 0 along a half cosine.

    Attributes:
        learning_rate: The highest.
        betas: Weights of the past in the moving averages of gradients and their squares.
        weight_decay: Decoupled weight decay.
        warmup_steps: Steps until the highest learning rate.
        max_gradient_norm: Longer gradients are scaled to this norm.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 100
    max_gradient_norm: float = 1.0


@dataclass(frozen=True)
class RunConfig:
    """The course of a run.

    Attributes:
        steps: Optimizer steps.
        seed: Of weights, crops and everything else that is random.
        mixed_precision: "bf16", "fp16" or "no".
        averaging: Weight of the past in the moving average of the weights, which is what is validated and exported.
        initial_examples: Crops that initialize the codebooks, on all processes together.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations.
    """

    steps: int = 10000
    seed: int = 0
    mixed_precision: str = "bf16"
    averaging: float = 0.999
    initial_examples: int = 256
    log_every: int = 100
    save_every: int = 500
    validate_every: int = 2000


@dataclass(frozen=True)
class Recipe:
    """Everything about a training run: what a recipe file holds, table by table."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def codec(self) -> CodecConfig:
        """The settings of the codec that is trained."""
        return CodecConfig(self.name, self.model, self.quantizer)

    @property
    def crop_length(self) -> int:
        """Samples of a training example."""
        return round(self.data.crop_seconds * self.model.sample_rate)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: A TOML file.
        overrides: Lines of TOML that replace single settings, such as "quantizer.num_quantizers = 8".

    Raises:
        ValueError: Not TOML, or a setting that is unknown (with the nearest known one) or of another type.
        OSError: The file cannot be read.
    """
    table = _parse(Path(path).read_text(encoding="utf-8"), str(path))
    for override in overrides:
        _merge(table, _parse(override, f"override {override!r}"))
    recipe = settings_from(table, Recipe)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    for table, names in {
        "data": ("crop_seconds", "batch_size"),
        "run": ("steps", "initial_examples", "log_every", "save_every", "validate_every"),
    }.items():
        for name in names:
            value = getattr(getattr(recipe, table), name)
            if value <= 0:
                raise ValueError(f"{table}.{name} must be positive; got {value}")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} must be TOML; {error}") from None


def _merge(table: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value
