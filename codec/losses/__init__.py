"""What training minimizes."""

from codec.losses.spectral import SpectralLoss, SpectralLosses, waveform_loss

__all__ = ["SpectralLoss", "SpectralLosses", "waveform_loss"]
