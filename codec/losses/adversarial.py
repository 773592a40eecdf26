"""What discriminators and generator minimize against each other.

Discriminators give logits: high for real audio, low for what the generator made (fake). Each discriminator counts
alike, however many logits it gives. Everything is in float32 whatever the type of logits and features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.losses.spectral import mean_size

# A layer whose features are smaller than this on average counts as if they were as large as that. Biases alone make
# features of 0.01 to 0.3, so this is for layers that are dead.
FEATURE_FLOOR = 1e-2


@dataclass(frozen=True)
class AdversarialLoss:
    """Both sides of the game. Each takes logits [batch, ...] of every discriminator and returns a scalar.

    Attributes:
        discriminator: `(real, fake) -> loss`, of the discriminators; `fake` comes from a generator that does not learn.
        generator: `(fake) -> loss`, of the generator.
    """

    discriminator: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    generator: Callable[[Sequence[Tensor]], Tensor]


def hinge_discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake): Lim & Ye 2017, arXiv 1705.02894."""
    return _mean_over_discriminators(lambda logits: F.relu(1 - logits), real) + _mean_over_discriminators(
        lambda logits: F.relu(1 + logits), fake
    )


def hinge_generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """max(0, 1 - fake): the generator's side in SoundStream, arXiv 2107.03312, and EnCodec, arXiv 2210.13438.

    Unlike that of Lim & Ye, -fake, it has nothing to gain from a discriminator that is fooled already.
    """
    return _mean_over_discriminators(lambda logits: F.relu(1 - logits), fake)


def least_squares_discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """(real - 1)² + fake²: Mao et al. 2016, arXiv 1611.04076, as in HiFi-GAN, arXiv 2010.05646, eq. 1."""
    return _mean_over_discriminators(lambda logits: (logits - 1).square(), real) + _mean_over_discriminators(
        torch.square, fake
    )


def least_squares_generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """(fake - 1)²: Mao et al. 2016, arXiv 1611.04076, as in HiFi-GAN, arXiv 2010.05646, eq. 2."""
    return _mean_over_discriminators(lambda logits: (logits - 1).square(), fake)


ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    "hinge": AdversarialLoss(hinge_discriminator_loss, hinge_generator_loss),
    "least_squares": AdversarialLoss(least_squares_discriminator_loss, least_squares_generator_loss),
}


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 distance of the features of hidden layers, relative to the L1 norm of the real ones: EnCodec, eq. 2.

    Mean over examples, each relative to its own features, and over the layers of all discriminators. Dividing by the
    size keeps discriminators from lowering the loss, or raising it, by the scale of their features.

    Args:
        real: Features of each discriminator's layers for real audio, [batch, ...]; they get no gradient.
        fake: Likewise, of equal shapes, for what the generator made.

    Raises:
        ValueError: Numbers of discriminators or layers differ.
    """
    distances = [
        _relative_distance(fake_features, real_features)
        for layers in zip(fake, real, strict=True)
        for fake_features, real_features in zip(*layers, strict=True)
    ]
    return torch.stack(distances).mean()


def _mean_over_discriminators(measure: Callable[[Tensor], Tensor], logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([measure(each.float()).mean() for each in logits]).mean()


def _relative_distance(fake: Tensor, real: Tensor) -> Tensor:
    real = real.detach().float()
    return (mean_size(fake.float() - real) / mean_size(real).clamp_min(FEATURE_FLOOR)).mean()
