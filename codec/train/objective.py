"""What training minimizes: the losses of a recipe, at the decoder's output."""

from collections.abc import Callable

from torch import Tensor, nn

from codec.losses import LoudnessLoss, SpectralLoss, si_sdr_loss, waveform_loss
from codec.losses.spectral import TERMS
from codec.train.recipe import LossConfig

# (estimate, target), [batch, 1, time] -> a scalar.
Distance = Callable[[Tensor, Tensor], Tensor]

# Functions of the decoder's output, which `loss.balanced` gives their shares.
ADVERSARIAL = ("adversarial", "feature_matching")
LOSSES = (*TERMS, "loudness", "waveform", "si_sdr", *ADVERSARIAL)


class Objective(nn.Module):
    """Reconstruction losses with a positive weight; those without are not computed.

    Args:
        config: Weights and resolutions.
        sample_rate: Hz.

    Attributes:
        weights: Of all losses at the decoder's output by name, those of discriminators too.

    Raises:
        ValueError: A weight is negative, or all are 0.
    """

    def __init__(self, config: LossConfig, sample_rate: int):
        super().__init__()
        weights = {name: getattr(config, name) for name in LOSSES}
        if min(weights.values()) < 0:
            raise ValueError(f"weights of losses must not be negative; got {weights}")
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        terms = tuple(name for name in TERMS if name in self.weights)
        self.loudness = LoudnessLoss(sample_rate)  # a module among modules, to go to the device with them
        distances: dict[str, Distance] = {
            "loudness": self.loudness,
            "waveform": waveform_loss,
            "si_sdr": si_sdr_loss,
        }
        self.distances = {name: distances[name] for name in distances if name in self.weights}
        if not terms and not self.distances:
            raise ValueError("a reconstruction loss must have a positive weight; got none")
        self.spectral = (
            SpectralLoss(sample_rate, config.window_lengths, config.num_mels, config.power, terms) if terms else None
        )

    def forward(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each loss by name, not weighted.

        Args:
            estimate: What the decoder returned, [batch, 1, time].
            target: What the encoder was given, likewise.
        """
        losses = {} if self.spectral is None else dict(self.spectral(estimate, target))
        return losses | {name: distance(estimate, target) for name, distance in self.distances.items()}
