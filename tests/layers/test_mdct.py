import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.layers import MDCT, InverseMDCT
from codec.layers.mdct import mdct_basis


def mdct_by_formula(samples: list[float]) -> list[float]:
    """The coefficients of one frame of 2N samples, term by term as in the docstring of the module."""
    size = len(samples) // 2
    coefficients = []
    for k in range(size):
        total = 0.0
        for n, sample in enumerate(samples):
            window = math.sin(math.pi * (n + 0.5) / (2 * size))
            total += window * sample * math.cos(math.pi / size * (n + 0.5 + size / 2) * (k + 0.5))
        coefficients.append(math.sqrt(2 / size) * total)
    return coefficients


def test_coefficients_are_those_of_the_formula():
    waveform = torch.randn(2, 1, 5 * 6)
    frames = MDCT(6)(waveform)
    assert frames.shape == (2, 6, 4)
    for example in range(2):
        for frame in range(4):
            expected = mdct_by_formula(waveform[example, 0, 6 * frame : 6 * frame + 12].tolist())
            torch.testing.assert_close(frames[example, :, frame], torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_a_hop_of_one_sample_is_solved_by_hand():
    # w = sin(pi/4), sin(3 pi/4); cosines cos(pi/2) = 0, cos(pi) = -1: X = sqrt(2) * sqrt(1/2) * -x[1].
    assert MDCT(1)(torch.tensor([[[3.0, 5.0, 7.0]]])).flatten().tolist() == pytest.approx([-5.0, -7.0])


@given(hop_length=st.integers(1, 33), num_frames=st.integers(1, 5), gain=st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=40, deadline=None)
def test_the_inverse_is_exact_after_the_first_hop(hop_length, num_frames, gain):
    waveform = torch.randn(2, 1, (num_frames + 1) * hop_length)
    decoded = InverseMDCT(hop_length, gain)(MDCT(hop_length, gain)(waveform))
    assert decoded.shape == (2, 1, num_frames * hop_length)
    torch.testing.assert_close(
        decoded[..., hop_length:], waveform[..., hop_length : num_frames * hop_length], atol=1e-5, rtol=1e-5
    )


def test_a_waveform_that_starts_with_a_silent_hop_comes_back_from_the_first_sample():
    waveform = torch.randn(1, 1, 6 * 160)
    waveform[..., :160] = 0
    decoded = InverseMDCT(160)(MDCT(160)(waveform))
    torch.testing.assert_close(decoded, waveform[..., : 5 * 160], atol=1e-5, rtol=0)


def test_the_first_hop_fades_in():
    waveform = torch.ones(1, 1, 320)
    decoded = InverseMDCT(160)(MDCT(160)(waveform)).flatten()
    # The window squared, less the aliasing w[n] w[N - 1 - n], is sin^2 - sin cos.
    angle = math.pi * (torch.arange(160) + 0.5) / 320
    torch.testing.assert_close(decoded, angle.sin() ** 2 - angle.sin() * angle.cos(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("hop_length", [1, 2, 7, 160])
def test_the_transform_is_orthonormal(hop_length):
    basis = mdct_basis(hop_length)
    first, second = basis[:, :hop_length], basis[:, hop_length:]
    torch.testing.assert_close(basis @ basis.T, torch.eye(hop_length), atol=1e-5, rtol=0)
    torch.testing.assert_close(second @ first.T, torch.zeros(hop_length, hop_length), atol=1e-5, rtol=0)


def test_coefficients_have_the_energy_of_the_samples(speech):
    hop_length = 160
    length = speech.shape[-1] // hop_length * hop_length
    waveform = torch.nn.functional.pad(speech[..., :length], (hop_length, hop_length))
    frames = MDCT(hop_length)(waveform)
    assert frames.square().sum().item() == pytest.approx(waveform.square().sum().item(), rel=1e-5)


def test_the_gain_is_a_factor_on_the_coefficients():
    waveform = torch.randn(1, 1, 64)
    torch.testing.assert_close(MDCT(16, gain=10)(waveform), 10 * MDCT(16)(waveform))
    frames = torch.randn(1, 16, 3)
    torch.testing.assert_close(InverseMDCT(16, gain=10)(frames), InverseMDCT(16)(frames) / 10)


def test_a_frame_sees_two_hops_of_samples_alone():
    waveform = torch.randn(1, 1, 8 * 16)
    frames = MDCT(16)(waveform)
    for sample, seen_by in ((48, [2, 3]), (63, [2, 3]), (64, [3, 4])):
        changed = waveform.clone()
        changed[..., sample] += 1
        differs = (MDCT(16)(changed) != frames).any(dim=1).squeeze(0)
        assert differs.nonzero().flatten().tolist() == seen_by


def test_the_inverse_is_causal():
    frames = torch.randn(1, 16, 8)
    waveform = InverseMDCT(16)(frames)
    changed = frames.clone()
    changed[..., 5] += 1
    differs = (InverseMDCT(16)(changed) != waveform).reshape(8, 16).any(dim=1)
    assert differs.nonzero().flatten().tolist() == [5, 6]


def test_both_transforms_pass_the_gradient():
    waveform = torch.randn(1, 1, 64, requires_grad=True)
    InverseMDCT(16)(MDCT(16)(waveform)).square().sum().backward()
    assert (waveform.grad != 0).all()


def test_frames_one_by_one_are_those_of_the_whole_to_the_last_bit():
    waveform, layer = torch.randn(1, 1, 41 * 320), MDCT(320, 10.0)
    frames = [layer(waveform[..., start : start + 640]) for start in range(0, 40 * 320, 320)]
    assert torch.equal(torch.cat(frames, dim=-1), layer(waveform))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_of_float32_under_autocast(dtype):
    coefficients, layer = torch.randn(2, 16, 5, dtype=dtype), InverseMDCT(16)
    expected = layer(coefficients.float())
    with torch.autocast("cpu", torch.bfloat16):
        samples = layer(coefficients)
    assert samples.dtype == torch.float32
    assert torch.equal(samples, expected)


def test_the_transform_takes_no_place_in_the_state_dict():
    assert MDCT(16).state_dict() == InverseMDCT(16).state_dict() == {}
