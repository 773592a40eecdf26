"""Which losses a recipe asks for."""

import pytest
import torch
from torch import Tensor

from codec.losses import LoudnessLoss, SpectralLoss, si_sdr_loss, waveform_loss
from codec.train.objective import Objective
from codec.train.recipe import LossConfig

RESOLUTIONS = {"window_lengths": (512, 256), "num_mels": (40, 20), "power": 0.5}
NONE = {"log_mel": 0, "stft": 0, "waveform": 0}


@pytest.fixture
def target(speech) -> Tensor:
    return speech[..., 16_000:20_000]


@pytest.fixture
def estimate(target) -> Tensor:
    return (target + 0.01 * torch.randn(target.shape)).requires_grad_()


def test_every_loss_with_a_weight_is_given_by_its_name(estimate, target) -> None:
    terms = ("log_mel", "stft", "magnitude", "log_magnitude")
    weights = dict(zip((*terms, "loudness", "waveform", "si_sdr"), range(1, 8), strict=True))
    objective = Objective(LossConfig(**weights, adversarial=0.5, feature_matching=0, **RESOLUTIONS), 16_000)
    expected = SpectralLoss(16_000, (512, 256), (40, 20), 0.5, terms)(estimate, target)
    expected |= {"loudness": LoudnessLoss(16_000)(estimate, target)}
    expected |= {"waveform": waveform_loss(estimate, target), "si_sdr": si_sdr_loss(estimate, target)}
    assert objective(estimate, target) == expected
    assert objective.weights == {**weights, "adversarial": 0.5}


@pytest.mark.parametrize("name", ["log_mel", "stft", "magnitude", "log_magnitude", "loudness", "waveform", "si_sdr"])
def test_any_loss_can_be_the_only_one(estimate, target, name: str) -> None:
    losses = Objective(LossConfig(**{**NONE, name: 2.0}, **RESOLUTIONS), 16_000)(estimate, target)
    assert list(losses) == [name]
    losses[name].backward()
    assert estimate.grad.abs().sum() > 0


def test_a_recipe_without_a_reconstruction_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a reconstruction loss must have a positive weight; got none$"):
        Objective(LossConfig(**NONE), 16_000)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^weights of losses must not be negative; got .*'stft': -1"):
        Objective(LossConfig(stft=-1), 16_000)
