import pytest
import torch
from torch import Tensor

from codec.evaluate import si_sdr
from codec.losses import si_sdr_loss


def noise(*shape: int, rms: float = 0.1, seed: int = 1) -> Tensor:
    return rms * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rms", [1e-3, 1e-2, 0.1, 1.0])
def test_the_loss_is_the_negative_of_the_metric(speech: Tensor, rms: float) -> None:
    target = speech[..., :32_000].reshape(2, 2, 8000) + 0.05  # not of mean 0
    estimate = 0.5 * target + noise(2, 2, 8000, rms=rms)
    expected = [si_sdr(*pair) for pair in zip(target.flatten(0, 1), estimate.flatten(0, 1), strict=True)]
    assert si_sdr_loss(estimate, target).item() == pytest.approx(-sum(expected) / 4, abs=0.1)


def test_a_distortion_orthogonal_to_the_target_has_the_ratio_of_the_energies() -> None:
    target, distortion = torch.tensor([[[0.3, 0.0]]]), torch.tensor([[[0.0, 0.03]]])
    assert si_sdr_loss(target + distortion, target).item() == pytest.approx(-20, abs=0.01)


@pytest.mark.parametrize("scale", [0.02, -1.0, 100.0])
def test_neither_level_nor_sign_of_the_estimate_matter(speech: Tensor, scale: float) -> None:
    estimate = speech + noise(*speech.shape, rms=0.01)
    assert si_sdr_loss(scale * estimate, speech).item() == pytest.approx(si_sdr_loss(estimate, speech).item(), abs=1e-3)


SIGNALS = {
    "silence": torch.zeros(1, 1, 2000),
    "noise": noise(1, 1, 2000),
    "more noise": noise(1, 1, 2000, seed=2),
    "loud": noise(1, 1, 2000, rms=1e3),
    "faint": noise(1, 1, 2000, rms=1e-6),
}


@pytest.mark.parametrize("estimate", SIGNALS)
@pytest.mark.parametrize("target", SIGNALS)
def test_the_loss_is_bounded_and_its_gradient_small_enough_to_learn_from(estimate: str, target: str) -> None:
    signal = SIGNALS[estimate].clone().requires_grad_()
    loss = si_sdr_loss(signal, SIGNALS[target])
    assert loss.abs() <= 50.01
    loss.backward()
    assert signal.grad.isfinite().all()
    assert signal.grad.norm() < 1e5


def test_the_bounds_are_reached_by_the_target_itself_and_by_silence(speech: Tensor) -> None:
    assert si_sdr_loss(speech, speech).item() == pytest.approx(-50, abs=0.5)
    assert si_sdr_loss(torch.zeros_like(speech), speech).item() == pytest.approx(50, abs=0.01)
    silence = torch.zeros_like(speech)
    estimate = speech.requires_grad_()
    loss = si_sdr_loss(estimate, silence)
    assert loss.item() == pytest.approx(50, abs=0.01)
    assert not torch.autograd.grad(loss, estimate)[0].any()


def test_the_loss_of_a_batch_is_the_mean_of_its_parts(speech: Tensor) -> None:
    target = torch.tensor([1.0, 0.01, 1e-4, 0.0]).view(4, 1, 1) * speech[..., 16_000:32_000].reshape(4, 2, 2000)
    estimate = target + noise(4, 2, 2000, rms=0.01)
    parts = [si_sdr_loss(*pair) for pair in zip(estimate.split(2), target.split(2), strict=True)]
    torch.testing.assert_close(si_sdr_loss(estimate, target), torch.stack(parts).mean())


def test_the_maths_is_in_float32_under_autocast(speech: Tensor) -> None:
    estimate = (speech + noise(*speech.shape, rms=0.01)).bfloat16()
    expected = si_sdr_loss(estimate.float(), speech)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(si_sdr_loss(estimate, speech), expected)


def test_gradients_lead_to_the_target() -> None:
    target = noise(1, 1, 500)
    estimate = noise(1, 1, 500, seed=2).requires_grad_()
    optimizer = torch.optim.Adam([estimate], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        si_sdr_loss(estimate, target).backward()
        optimizer.step()
    assert si_sdr_loss(estimate, target) < -20
