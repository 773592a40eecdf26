"""Recipes: TOML files that say everything about a training run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codec.discriminators import DiscriminatorConfig
from codec.model.config import CodecConfig, ModelConfig, QuantizerConfig
from codec.settings import load_settings


@dataclass(frozen=True)
class DataConfig:
    """Where audio comes from.

    Attributes:
        root: Folder that the next two are relative to.
        train: What to train on: a folder of audio, a LibriSpeech split among others, or a manifest (.tsv, .jsonl).
        valid: What to validate on, likewise; if empty, clips are held out from the training data.
        valid_clips: How many of them, or of those held out.
        valid_seconds: How much of each, from its beginning.
        min_seconds: Shorter files are skipped.
        sampling: How crops are drawn; a name in `codec.train.crops.SAMPLINGS`.
        crop_seconds: Length of a training example.
        batch_size: Examples of a step, of all processes and micro-batches together.
        gain_db: Range of the random gain, dB.
        speed: Range of the random change of speed, by resampling; [1, 1] for none.
        workers: Processes that read audio, for each training process.
    """

    root: str = "LibriSpeech"
    train: str = "train-clean-100"
    valid: str = "dev-clean"
    valid_clips: int = 24
    valid_seconds: float = 20.0
    min_seconds: float = 0.5
    sampling: str = "speaker"
    crop_seconds: float = 1.0
    batch_size: int = 16
    gain_db: tuple[float, float] = (0.0, 0.0)
    speed: tuple[float, float] = (1.0, 1.0)
    workers: int = 1


@dataclass(frozen=True)
class LossConfig:
    """What is minimized. All but the last four are weights; see `codec.losses` for what they weigh.

    Attributes:
        log_mel: Of the log-mel distance.
        stft: Of the compressed complex-STFT distance.
        magnitude: Of the spectral convergence.
        log_magnitude: Of the log-magnitude distance.
        loudness: Of the distance of loudness in critical bands.
        waveform: Of the waveform distance.
        si_sdr: Of the negative SI-SDR, dB.
        adversarial: Of what the discriminators say; they are built where `discriminators.kinds` names some.
        feature_matching: Of the distance of the discriminators' features.
        commitment: Of the commitment loss.
        codebook: Of the codebook loss, where codebooks learn by gradient.
        balanced: Whether each of the first nine weights is that loss's share of the gradient at the decoder's output,
            rather than a factor on the loss; see `codec.losses.Balancer`.
        window_lengths: Resolutions of the spectra, samples.
        num_mels: Mel bands of each resolution.
        power: Compression of the complex spectra.
    """

    log_mel: float = 1.0
    stft: float = 1.0
    magnitude: float = 0.0
    log_magnitude: float = 0.0
    loudness: float = 0.0
    waveform: float = 1.0
    si_sdr: float = 0.0
    adversarial: float = 1.0
    feature_matching: float = 2.0
    commitment: float = 0.25
    codebook: float = 1.0
    balanced: bool = False
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
class AdversarialConfig:
    """How discriminators learn, and from when on the codec learns from them.

    Attributes:
        loss: A name in `codec.losses.ADVERSARIAL_LOSSES`.
        start: Steps without discriminators before the first with them.
        every: The discriminators learn in each step whose number is a multiple of this, on all ranks alike.
        optimizer: Of the discriminators; its warm-up begins at `start`.
    """

    loss: str = "hinge"
    start: int = 0
    every: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class RunConfig:
    """The course of a run.

    Attributes:
        steps: Optimizer steps.
        seed: Of weights, crops and everything else that is random.
        mixed_precision: "bf16", "fp16" (with a GPU), "no", or "auto": bfloat16 where the hardware has instructions for
            it, else float32. The quantizer and the losses are in float32 all the same.
        micro_batches: Parts that each process takes its share of a batch in, one after the other, to save memory
            (gradient accumulation). What is learned does not depend on it.
        averaging: Weight of the past in the moving average of the weights, which is what is validated and exported;
            lower in the first steps.
        initial_examples: Crops that initialize the codebooks, on all processes together.
        max_skipped: Steps in a row whose loss or gradient is not finite; one more ends the run.
        keep: How many of the last checkpoints are kept, beside that of the best validation.
        best: The score that tells the best, of the highest bitrate: "pesq_wb", "stoi", "si_sdr" or "mel_distance".
        trackers: Names that Accelerate knows, such as "tensorboard" and "wandb".
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations.
        example_clips: Validation clips that trackers get the decoded audio and spectrograms of.
    """

    steps: int = 10000
    seed: int = 0
    mixed_precision: str = "auto"
    micro_batches: int = 1
    averaging: float = 0.999
    initial_examples: int = 256
    max_skipped: int = 20
    keep: int = 2
    best: str = "pesq_wb"
    trackers: tuple[str, ...] = ("tensorboard",)
    log_every: int = 100
    save_every: int = 500
    validate_every: int = 2000
    example_clips: int = 3


@dataclass(frozen=True)
class Recipe:
    """Everything about a training run: what a recipe file holds, table by table."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
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
    recipe = load_settings(path, Recipe, overrides)
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    for table, names in {
        "data": ("crop_seconds", "batch_size", "valid_clips", "valid_seconds"),
        "adversarial": ("every",),
        "run": ("steps", "initial_examples", "micro_batches", "keep", "log_every", "save_every", "validate_every"),
    }.items():
        for name in names:
            value = getattr(getattr(recipe, table), name)
            if value <= 0:
                raise ValueError(f"{table}.{name} must be positive; got {value}")
    if recipe.discriminators.kinds and recipe.adversarial.start >= recipe.run.steps:
        raise ValueError(
            f"adversarial.start must be less than run.steps {recipe.run.steps}, or discriminators.kinds be empty; "
            f"got {recipe.adversarial.start}"
        )
    scores = ("pesq_wb", "stoi", "si_sdr", "mel_distance")
    if recipe.run.best not in scores:
        raise ValueError(f"run.best must be one of {', '.join(scores)}; got {recipe.run.best!r}")
