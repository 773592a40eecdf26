"""Networks that tell recorded audio from decoded audio, for adversarial training."""

from codec.discriminators.band import BandDiscriminator
from codec.discriminators.build import DISCRIMINATORS, build_discriminators
from codec.discriminators.config import DiscriminatorConfig
from codec.discriminators.ensemble import Discriminators
from codec.discriminators.judgement import Judgement
from codec.discriminators.period import PeriodDiscriminator
from codec.discriminators.stft import STFTDiscriminator

__all__ = [
    "DISCRIMINATORS",
    "BandDiscriminator",
    "DiscriminatorConfig",
    "Discriminators",
    "Judgement",
    "PeriodDiscriminator",
    "STFTDiscriminator",
    "build_discriminators",
]
