import cmath
import math

import pytest
import torch
from torch import nn

from codec.layers import InverseSTFT, MagnitudePhase, OverlapAdd, Stateful, streaming
from codec.layers.synthesis import inverse_stft_basis

HOP = 6
# A layer, and its channels in.
LAYERS = {"overlap-add": (lambda: OverlapAdd(HOP), 2 * HOP), "inverse STFT": (lambda: InverseSTFT(HOP), 2 * HOP + 2)}


@pytest.fixture(params=LAYERS)
def layer_and_frames(request):
    make, channels = LAYERS[request.param]
    return make(), torch.randn(2, channels, 9)


def sine_window(hop_length):
    return torch.tensor([math.sin(math.pi * (n + 0.5) / (2 * hop_length)) for n in range(2 * hop_length)])


def stft_by_formula(waveform, hop_length):
    """Real and imaginary parts of [1, 1, time], term by term as in the docstring of the module."""
    window, parts = sine_window(hop_length), []
    for start in range(0, waveform.shape[-1] - hop_length, hop_length):
        frame = (window * waveform[0, 0, start : start + 2 * hop_length]).tolist()
        values = [
            math.sqrt(1 / hop_length)
            * sum(sample * cmath.exp(-1j * math.pi * k * n / hop_length) for n, sample in enumerate(frame))
            for k in range(hop_length + 1)
        ]
        parts.append([value.real for value in values] + [value.imag for value in values])
    return torch.tensor(parts).T[None]


def test_overlapping_frames_add_up_under_the_window():
    frames, window = torch.randn(1, 2 * HOP, 4), sine_window(HOP)
    expected = torch.zeros(5 * HOP)
    for frame in range(4):
        expected[frame * HOP : (frame + 2) * HOP] += window * frames[0, :, frame]
    torch.testing.assert_close(OverlapAdd(HOP)(frames).flatten(), expected[: 4 * HOP])


def test_frames_under_the_same_window_add_up_to_the_waveform():
    waveform = torch.randn(2, 1, 8 * HOP)
    frames = waveform.squeeze(1).unfold(-1, 2 * HOP, HOP).mT * sine_window(HOP)[:, None]
    decoded = OverlapAdd(HOP)(frames)
    assert decoded.shape == (2, 1, 7 * HOP)
    torch.testing.assert_close(decoded[..., HOP:], waveform[..., HOP : 7 * HOP])


def test_frames_of_noise_add_up_to_noise_of_one_level():
    noise = OverlapAdd(HOP)(torch.randn(1, 2 * HOP, 20_000)).reshape(-1, HOP)[1:]
    torch.testing.assert_close(noise.square().mean(dim=0), torch.ones(HOP), atol=0.05, rtol=0)


@pytest.mark.parametrize("hop_length", [1, 2, 7, 16])
def test_the_inverse_stft_is_exact_after_the_first_hop(hop_length):
    waveform = torch.randn(1, 1, 6 * hop_length)
    decoded = InverseSTFT(hop_length)(stft_by_formula(waveform, hop_length))
    expected = waveform[..., hop_length : 5 * hop_length]
    torch.testing.assert_close(decoded[..., hop_length:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_of_float32_under_autocast(dtype):
    parts, layer = torch.randn(2, 34, 5, dtype=dtype), InverseSTFT(16)
    expected = layer(parts.float())
    with torch.autocast("cpu", torch.bfloat16):
        samples = layer(parts)
    assert samples.dtype == torch.float32
    assert torch.equal(samples, expected)


def test_the_basis_is_the_inverse_of_the_real_fourier_transform():
    parts = torch.randn(3, 2 * (HOP + 1))
    expected = math.sqrt(HOP) * torch.fft.irfft(torch.complex(*parts.chunk(2, dim=1)))
    torch.testing.assert_close(parts @ inverse_stft_basis(HOP), expected, atol=1e-6, rtol=1e-5)


def test_the_gain_is_what_frames_are_divided_by():
    for kind, channels in ((OverlapAdd, 2 * HOP), (InverseSTFT, 2 * HOP + 2)):
        frames = torch.randn(1, channels, 3)
        torch.testing.assert_close(kind(HOP, gain=10)(frames), kind(HOP)(frames) / 10)


def test_samples_of_a_hop_need_its_frame_and_the_one_before(layer_and_frames):
    layer, frames = layer_and_frames
    changed = frames.clone()
    changed[..., 5] += 1
    differs = (layer(changed) != layer(frames)).reshape(2, 9, HOP).any(dim=2)
    assert [row.nonzero().flatten().tolist() for row in differs] == [[5, 6], [5, 6]]


@pytest.mark.parametrize("sizes", [[1] * 9, [2, 2, 2, 2, 1], [0, 1, 0, 5, 0, 0, 3, 0], [9]])
def test_frames_in_parts_give_the_samples_of_the_whole(layer_and_frames, sizes):
    layer, frames = layer_and_frames
    expected = layer(frames)
    for _ in range(2):
        with streaming(layer, 2):
            waveform = torch.cat([layer(part) for part in frames.split(sizes, dim=-1)], dim=-1)
        torch.testing.assert_close(waveform, expected, atol=1e-6, rtol=1e-5)
    assert all(module.state is None for module in layer.modules() if isinstance(module, Stateful))


def test_what_a_stream_keeps_is_half_a_frame_without_gradient(layer_and_frames):
    layer, frames = layer_and_frames
    with streaming(layer, 2):
        layer(frames.requires_grad_())
        (kept,) = [module.state.frames for module in layer.modules() if isinstance(module, Stateful)]
    assert (kept.shape, kept.requires_grad) == ((2, HOP, 1), False)
    assert kept.untyped_storage().nbytes() == 4 * kept.numel()


def test_no_frames_are_no_samples(layer_and_frames):
    layer, frames = layer_and_frames
    assert layer(frames[..., :0]).shape == (2, 1, 0)


@torch.no_grad()
def test_a_head_compiles_into_one_graph():
    layers, frames = nn.Sequential(MagnitudePhase(9.0), InverseSTFT(HOP)), torch.randn(1, 2 * HOP + 2, 3)
    assert torch.equal(torch.compile(layers, backend="eager", fullgraph=True)(frames), layers(frames))


def test_the_transforms_take_no_place_in_the_state_dict(layer_and_frames):
    assert layer_and_frames[0].state_dict() == {}


def test_magnitude_and_phase_are_those_of_the_parts():
    parts = torch.randn(2, 10, 7, dtype=torch.complex64)
    # Any multiple of a turn is the same phase.
    phase = parts.angle() + 2 * math.pi * torch.randint(-3, 4, parts.shape)
    expected = torch.cat([parts.real, parts.imag], dim=1)
    actual = MagnitudePhase(100.0)(torch.cat([parts.abs().log(), phase], dim=1))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_magnitude_and_phase_are_taken_in_float32_under_autocast():
    x = torch.randn(2, 10, 7)
    half, layer = x.bfloat16(), MagnitudePhase(100.0)
    expected = layer(x), layer(half.float()).bfloat16()  # what comes in half precision goes out so
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected[0])
        assert torch.equal(layer(half), expected[1])


def test_magnitudes_stop_at_the_limit_and_gradients_stay_finite():
    x = torch.tensor([[[3.0, 1e4, -1e4], [0.0, 0.0, 1.0]]], requires_grad=True)
    parts = MagnitudePhase(limit=5.0)(x)
    torch.testing.assert_close(parts[0, 0], torch.tensor([5.0, 5.0, 0.0]))
    parts.sum().backward()
    # Beyond the limit a magnitude learns nothing; the phase does, by magnitude times cosine.
    torch.testing.assert_close(x.grad, torch.tensor([[[0.0, 0.0, 0.0], [5.0, 5.0, 0.0]]]))
