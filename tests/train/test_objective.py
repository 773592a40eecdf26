import pytest
import torch

from codec.losses import SpectralLoss, waveform_loss
from codec.model import CodecOutput
from codec.train.objective import Objective
from codec.train.recipe import LossConfig

RESOLUTIONS = {"window_lengths": (512, 256), "num_mels": (40, 20), "power": 0.5}


@pytest.fixture
def target(speech):
    return speech[..., 16_000:20_000]


@pytest.fixture
def output(target):
    waveform = (target + 0.01 * torch.randn(target.shape)).requires_grad_()
    losses = {"commitment": torch.tensor(0.5), "codebook": torch.tensor(0.25)}
    return CodecOutput(waveform, torch.zeros(1, 2, 10, dtype=torch.int64), losses)


def test_every_loss_is_reported_before_it_is_weighted(output, target):
    config = LossConfig(log_mel=2, stft=3, waveform=5, commitment=7, codebook=11, **RESOLUTIONS)
    total, losses = Objective(config, 16_000)(output, target)
    spectral = SpectralLoss(16_000, (512, 256), (40, 20), 0.5)(output.waveform, target)
    expected = {
        "log_mel": spectral.log_mel,
        "stft": spectral.stft,
        "waveform": waveform_loss(output.waveform, target),
        "commitment": torch.tensor(0.5),
        "codebook": torch.tensor(0.25),
    }
    assert losses == expected
    weights = {"log_mel": 2, "stft": 3, "waveform": 5, "commitment": 7, "codebook": 11}
    assert total.item() == pytest.approx(sum(weights[name] * loss.item() for name, loss in losses.items()))


def test_the_gradient_arrives_at_the_waveform(output, target):
    total, _ = Objective(LossConfig(**RESOLUTIONS), 16_000)(output, target)
    total.backward()
    assert (output.waveform.grad != 0).float().mean() > 0.99


def test_a_weight_of_zero_takes_a_loss_out_of_the_sum_but_not_out_of_the_report(output, target):
    config = LossConfig(log_mel=0, stft=0, waveform=0, codebook=0, commitment=2, **RESOLUTIONS)
    total, losses = Objective(config, 16_000)(output, target)
    assert total == 1.0
    assert losses["log_mel"] > 0


def test_a_quantizer_without_a_codebook_loss_has_none(output, target):
    del output.losses["codebook"]
    _, losses = Objective(LossConfig(**RESOLUTIONS), 16_000)(output, target)
    assert list(losses) == ["log_mel", "stft", "waveform", "commitment"]


def test_the_objective_takes_audio_in_half_precision(output, target):
    half = output._replace(waveform=output.waveform.detach().bfloat16())
    total, losses = Objective(LossConfig(**RESOLUTIONS), 16_000)(half, target)
    assert {loss.dtype for loss in [total, *losses.values()]} == {torch.float32}
