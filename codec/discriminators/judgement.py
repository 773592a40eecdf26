"""What every discriminator takes and returns."""

from typing import NamedTuple

from einops import rearrange
from torch import Tensor


class Judgement(NamedTuple):
    """What a discriminator says about a batch.

    Attributes:
        logits: [batch, 1, ...], float32; high where the audio sounds recorded, low where it sounds decoded. Each is
            about a stretch of time and, of spectrograms, of frequency.
        features: Outputs of the hidden layers after their activation, each [batch, channels, ...], for feature
            matching; of the type that autocast chose.
    """

    logits: Tensor
    features: list[Tensor]


def samples_of(waveform: Tensor) -> Tensor:
    """[batch, 1, time] -> [batch, time].

    Raises:
        ValueError: Another number of axes or channels, or no sample.
    """
    if waveform.dim() != 3 or waveform.shape[1] != 1 or waveform.shape[2] == 0:
        raise ValueError(f"waveform must be [batch, 1, time], of 1 sample or more; got {list(waveform.shape)}")
    return rearrange(waveform, "b 1 t -> b t")
