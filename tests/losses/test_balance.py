from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from codec.losses import Balancer, si_sdr_loss, waveform_loss

WEIGHTS = {"spectral": 3.0, "waveform": 1.0}
Gradients = dict[str, Tensor]


def orthogonal(batch: int = 4, scale: float = 1.0) -> Gradients:
    """Gradients of two losses that pull in different directions; of unequal sizes, and from example to example."""
    sizes = torch.arange(1.0, batch + 1).view(batch, 1, 1)
    spectral, waveform = torch.zeros(2, batch, 1, 6).unbind(0)
    spectral[..., :3] = scale * sizes * torch.randn(batch, 1, 3)
    waveform[..., 3:] = 0.01 * torch.randn(batch, 1, 3)
    return {"spectral": spectral, "waveform": waveform}


def take_step(balancer: Balancer, *micro_batches: Mapping[str, Tensor]) -> list[Tensor]:
    combined = [balancer.combine(gradients) for gradients in micro_batches]
    balancer.update()
    return combined


def size(gradient: Tensor) -> float:
    """n_i of the module's docstring."""
    return sum(example.norm().item() for example in gradient)


def test_the_gradient_is_that_of_the_formula_with_averages_of_the_steps_before() -> None:
    balancer = Balancer(WEIGHTS, total_norm=2.0, decay=0.9)
    steps = [orthogonal(scale=scale) for scale in (1.0, 5.0, 0.2)]
    sizes = [{name: size(gradient) for name, gradient in gradients.items()} for gradients in steps]
    for step, gradients in enumerate(steps):
        (combined,) = take_step(balancer, gradients)
        # The first step has no past but its own norm.
        past = sizes[: max(1, step)]
        decays = [0.9 ** (len(past) - 1 - index) for index in range(len(past))]
        averages = {
            name: sum(decay * each[name] for decay, each in zip(decays, past, strict=True)) / sum(decays)
            for name in WEIGHTS
        }
        expected = sum(2.0 * WEIGHTS[name] / 4.0 * gradients[name] / averages[name] for name in WEIGHTS)
        torch.testing.assert_close(combined, expected)


def test_micro_batches_that_are_rehearsed_have_the_first_gradient_of_the_whole_batch() -> None:
    batch = orthogonal(batch=8)
    parts = [{name: 4 * gradient[start : start + 2] for name, gradient in batch.items()} for start in range(0, 8, 2)]
    whole, rehearsed, unprepared = Balancer(WEIGHTS), Balancer(WEIGHTS), Balancer(WEIGHTS)
    assert rehearsed.lacks(WEIGHTS)
    for part in parts:
        rehearsed.rehearse(part)
    rehearsed.settle()
    (expected,) = take_step(whole, batch)
    torch.testing.assert_close(torch.cat(take_step(rehearsed, *parts)) / 4, expected)
    assert not torch.allclose(torch.cat(take_step(unprepared, *parts)) / 4, expected)
    assert not rehearsed.lacks(WEIGHTS)
    assert rehearsed.norms == pytest.approx(whole.norms)


@pytest.mark.parametrize("factor", [1.0, 1000.0, 1e-6])
def test_each_losss_share_of_the_gradient_is_its_weights_whatever_its_scale(factor: float) -> None:
    balancer = Balancer(WEIGHTS)
    gradients = orthogonal()
    for _ in range(3):
        (combined,) = take_step(balancer, {**gradients, "waveform": factor * gradients["waveform"]})
    assert size(combined[..., :3]) == pytest.approx(0.75)
    assert size(combined[..., 3:]) == pytest.approx(0.25)


def test_the_weights_of_the_losses_at_hand_make_up_the_whole() -> None:
    balancer = Balancer(WEIGHTS, total_norm=3.0)
    gradients = orthogonal()
    (combined,) = take_step(balancer, {"waveform": gradients["waveform"]})
    assert size(combined) == pytest.approx(3.0)
    assert list(balancer.norms) == ["waveform"]
    # One that joins later brings its own norm.
    (combined,) = take_step(balancer, gradients)
    assert size(combined[..., :3]) == pytest.approx(3.0 * 0.75)


def gradients_of(estimate: Tensor, target: Tensor) -> Gradients:
    estimate = estimate.clone().requires_grad_()
    losses = {"spectral": si_sdr_loss(estimate, target), "waveform": waveform_loss(estimate, target)}
    return {name: torch.autograd.grad(loss, estimate)[0] for name, loss in losses.items()}


def speech_batch(speech: Tensor) -> tuple[Tensor, Tensor]:
    target = torch.tensor([1.0, 0.1, 0.5, 2.0]).view(4, 1, 1) * speech[..., 16_000:24_000].reshape(4, 1, 2000)
    return target + 0.02 * torch.randn(4, 1, 2000), target


@pytest.mark.parametrize("examples", [1, 2])
def test_a_batch_in_parts_has_the_gradient_of_the_joined_batch(speech: Tensor, examples: int) -> None:
    whole, cut = Balancer(WEIGHTS), Balancer(WEIGHTS)
    take_step(whole, orthogonal())
    cut.load_state_dict(whole.state_dict())
    for _ in range(3):
        estimate, target = speech_batch(speech)
        (joined,) = take_step(whole, gradients_of(estimate, target))
        pairs = zip(estimate.split(examples), target.split(examples), strict=True)
        parts = take_step(cut, *(gradients_of(*pair) for pair in pairs))
        # A part's gradient stands for a mean over fewer examples; the mean over the parts is over all.
        torch.testing.assert_close(torch.cat(parts) / len(parts), joined, rtol=1e-4, atol=1e-9)
        assert cut.norms == pytest.approx(whole.norms, rel=1e-5)


def test_before_there_is_an_average_the_first_micro_batchs_norm_serves_the_whole_step() -> None:
    balancer = Balancer(WEIGHTS)
    first, second = orthogonal(scale=1.0), orthogonal(scale=7.0)
    combined = take_step(balancer, first, second)
    for part, gradients in zip(combined, (first, second), strict=True):
        expected = sum(WEIGHTS[name] / 4 * gradients[name] / size(first[name]) for name in WEIGHTS)
        torch.testing.assert_close(part, expected)
    means = {name: (size(first[name]) + size(second[name])) / 2 for name in WEIGHTS}
    assert balancer.norms == pytest.approx(means)


def learn_on_ranks(rank, weights: dict[str, float], steps: list[list[Gradients]]) -> tuple[list[Tensor], dict, list]:
    balancer = Balancer(weights)  # before the process group
    rank.join()
    combined, collectives = [], []
    for micro_batches in steps:
        before = rank.collectives
        mine = [
            {name: 2 * gradient.chunk(2)[rank.index] for name, gradient in gradients.items()}
            for gradients in micro_batches
        ]
        combined += take_step(balancer, *mine)
        collectives.append(rank.collectives - before)
    return combined, balancer.norms, collectives


def test_two_ranks_pass_on_what_one_does_with_one_collective_a_step(two_ranks) -> None:
    whole = Balancer(WEIGHTS)
    steps = [[orthogonal(scale=scale) for scale in scales] for scales in ((1.0, 2.0), (3.0, 1.0), (1.0, 5.0))]
    for gradients in steps[0]:
        gradients.pop("spectral")  # joins in the second step
    expected = [combined for micro_batches in steps for combined in take_step(whole, *micro_batches)]
    answers = two_ranks(learn_on_ranks, WEIGHTS, steps)
    for index, joined in enumerate(expected):
        halves = [combined[index] for combined, _, _ in answers]
        torch.testing.assert_close(torch.cat(halves) / 2, joined)
    for _, norms, collectives in answers:
        assert norms == pytest.approx(whole.norms)
        assert norms == answers[0][1]
        # One more where a loss has no average yet.
        assert collectives == [2, 2, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("steps_before", [0, 1])
def test_a_norm_that_is_not_finite_stays_out_of_the_averages(bad: float, steps_before: int) -> None:
    balancer = Balancer(WEIGHTS)
    good = orthogonal()
    for _ in range(steps_before):
        take_step(balancer, good)
    broken = {**good, "spectral": good["spectral"].clone()}
    broken["spectral"][0, 0, 0] = bad
    combined, _ = take_step(balancer, broken, good)
    assert not combined.isfinite().all()
    (combined,) = take_step(balancer, good)
    assert size(combined[..., :3]) == pytest.approx(0.75)
    assert balancer.norms == pytest.approx({name: size(gradient) for name, gradient in good.items()})


def test_a_loss_without_gradient_adds_nothing_and_waits_for_one() -> None:
    balancer = Balancer(WEIGHTS)
    good = orthogonal()
    flat = {**good, "spectral": torch.zeros_like(good["spectral"])}
    first, second = take_step(balancer, flat, good)
    assert size(first[..., :3]) == 0
    assert size(second[..., :3]) == pytest.approx(0.75)
    take_step(balancer, flat)
    assert balancer.norms["spectral"] == pytest.approx(size(good["spectral"]) / 2)


def test_a_discarded_step_leaves_no_trace() -> None:
    balancer, undisturbed = Balancer(WEIGHTS), Balancer(WEIGHTS)
    for scale in (1.0, 2.0):
        balancer.combine(orthogonal(scale=100.0))
        balancer.discard()
        gradients = orthogonal(scale=scale)
        assert torch.equal(*(take_step(each, gradients)[0] for each in (balancer, undisturbed)))
    assert balancer.norms == undisturbed.norms


def test_a_balancer_goes_on_from_its_state_dict() -> None:
    balancer, resumed = Balancer(WEIGHTS), Balancer(WEIGHTS)
    for _ in range(3):
        take_step(balancer, orthogonal())
    resumed.load_state_dict(balancer.state_dict())
    gradients = orthogonal()
    for _ in range(2):
        assert torch.equal(*(take_step(each, gradients)[0] for each in (balancer, resumed)))


def test_the_order_of_the_gradients_does_not_matter_and_they_are_not_changed() -> None:
    first, second = Balancer(WEIGHTS), Balancer(WEIGHTS)
    gradients = orthogonal()
    copies = {name: gradient.clone() for name, gradient in gradients.items()}
    backwards = dict(reversed(gradients.items()))
    assert torch.equal(take_step(first, gradients)[0], take_step(second, backwards)[0])
    assert all(torch.equal(gradients[name], copies[name]) for name in WEIGHTS)


def test_norms_are_in_float32_and_the_result_is_of_the_gradients_type() -> None:
    # The square of 300 is beyond float16.
    gradients = {name: 300 * torch.ones(2, 1, 8, dtype=torch.float16) for name in WEIGHTS}
    balancer = Balancer(WEIGHTS)
    (combined,) = take_step(balancer, gradients)
    assert combined.dtype == torch.float16
    assert size(combined.float()) == pytest.approx(1, rel=1e-2)


def test_a_weight_of_zero_leaves_a_loss_out() -> None:
    balancer = Balancer({**WEIGHTS, "adversarial": 0.0})
    gradients = orthogonal()
    (combined,) = take_step(balancer, {**gradients, "adversarial": torch.randn(4, 1, 6)})
    assert torch.equal(combined, take_step(Balancer(WEIGHTS), gradients)[0])
    assert list(balancer.norms) == list(WEIGHTS)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights must not be negative; got \{'waveform': -1\}"):
        Balancer({"waveform": -1})
    with pytest.raises(ValueError, match="total_norm must be positive; got 0"):
        Balancer(WEIGHTS, total_norm=0)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\); got 1"):
        Balancer(WEIGHTS, decay=1)
    with pytest.raises(ValueError, match="gradients must be of losses with a weight, spectral, waveform; got 'mel'"):
        Balancer(WEIGHTS).combine({"mel": torch.ones(1, 1, 1)})
    with pytest.raises(ValueError, match=r"gradients must hold a loss of positive weight; got \['waveform'\]"):
        Balancer({"waveform": 0.0}).combine({"waveform": torch.ones(1, 1, 1)})
