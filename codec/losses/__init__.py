"""What training minimizes."""

from codec.losses.adversarial import ADVERSARIAL_LOSSES, AdversarialLoss, feature_matching_loss
from codec.losses.balance import Balancer
from codec.losses.loudness import LoudnessLoss
from codec.losses.si_sdr import si_sdr_loss
from codec.losses.spectral import TERMS, SpectralLoss, waveform_loss

__all__ = [
    "ADVERSARIAL_LOSSES",
    "TERMS",
    "AdversarialLoss",
    "Balancer",
    "LoudnessLoss",
    "SpectralLoss",
    "feature_matching_loss",
    "si_sdr_loss",
    "waveform_loss",
]
