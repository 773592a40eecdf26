"""Steps of training, in one process. What several processes do is tested with the training script."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from codec.discriminators import DiscriminatorConfig
from codec.model import ModelConfig, QuantizerConfig
from codec.train.recipe import AdversarialConfig, LossConfig, OptimizerConfig, Recipe, RunConfig
from codec.train.schedule import cosine_with_warmup
from codec.train.step import DivergedError, Outcome, Trainer

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=2)
PLAIN = Recipe(
    "test",
    ModelConfig(look_ahead=320, dim=16, encoder_depth=1, decoder_depth=1, latent_dim=16),
    QuantizerConfig(num_quantizers=3, codebook_size=16, dropout=0.5),
    loss=LossConfig(si_sdr=0.01, window_lengths=(512, 256), num_mels=(40, 20)),
    optimizer=OPTIMIZER,
    run=RunConfig(steps=20, mixed_precision="no", averaging=0.9, max_skipped=2),
)
JUDGED = replace(
    PLAIN,
    discriminators=DiscriminatorConfig(
        kinds=("stft", "period"), stft_windows=(256,), stft_channels=4, periods=(3,), period_channels=2
    ),
    adversarial=AdversarialConfig(start=2, every=2, optimizer=OPTIMIZER),
)
BALANCED = replace(JUDGED, loss=replace(JUDGED.loss, balanced=True))


@pytest.fixture
def accelerator(request) -> Iterator[Accelerator]:
    yield Accelerator(**getattr(request, "param", {"cpu": True}))
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def batches(speech) -> list[Tensor]:
    """Six of eight crops of 0.2 s, [8, 1, 3200] each; the first places codebooks."""
    starts = torch.randint(speech.shape[-1] - 3200, (6, 8))
    return [torch.cat([speech[..., start : start + 3200] for start in row.tolist()]) for row in starts]


def begin(accelerator: Accelerator, recipe: Recipe, first: Tensor) -> Trainer:
    torch.manual_seed(0)
    trainer = Trainer(accelerator, recipe)
    trainer.initialize(first)
    return trainer


def take(trainer: Trainer, batches: list[Tensor], start: int = 0, parts: int = 1) -> list[Outcome]:
    return [trainer.take(step, batch.chunk(parts)) for step, batch in enumerate(batches, start=start)]


def flat(state: Any, where: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, by their paths."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: leaf for key, value in items for path, leaf in flat(value, f"{where}/{key}").items()}
    return {where: state.clone() if isinstance(state, Tensor) else state}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    assert [path for path in first if not is_same(first[path], second[path])] == []


def is_same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second


def test_the_gradient_is_that_of_the_weighted_sum(accelerator, batches) -> None:
    trainer = begin(accelerator, replace(PLAIN, quantizer=replace(PLAIN.quantizer, dropout=0.0)), batches[0])
    reference = begin(accelerator, trainer.recipe, batches[0])
    output = reference.codec(batches[1])
    losses = reference._objective(output.waveform, batches[1]) | output.losses
    total = sum(getattr(PLAIN.loss, name) * loss for name, loss in losses.items())
    total.backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in reference.codec.parameters()])
    values = trainer.take(0, [batches[1]]).values
    torch.testing.assert_close(values["loss"], total.detach())
    torch.testing.assert_close(values["gradient_norm"], expected)
    for name, loss in losses.items():
        torch.testing.assert_close(values[name], loss.detach(), msg=name)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_batch_in_parts_is_learned_from_as_the_whole(accelerator, batches, balanced: bool) -> None:
    # Slowly: Adam takes steps of one size whatever the size of a gradient, rounding errors too.
    slow = replace(OPTIMIZER, learning_rate=1e-5)
    recipe = replace(BALANCED if balanced else JUDGED, optimizer=slow)
    recipe = replace(recipe, adversarial=replace(recipe.adversarial, optimizer=slow))
    whole, parts = (begin(accelerator, recipe, batches[0]) for _ in range(2))
    for expected, outcome in zip(take(whole, batches[1:]), take(parts, batches[1:], parts=4), strict=True):
        torch.testing.assert_close(outcome.values, expected.values, atol=1e-4, rtol=1e-4)
        assert torch.equal(outcome.codes, expected.codes)
    torch.testing.assert_close(parts.codec.state_dict(), whole.codec.state_dict(), atol=1e-4, rtol=1e-4)


def test_after_a_skipped_first_step_parts_are_as_the_whole_all_the_same(accelerator, batches) -> None:
    whole, parts = (begin(accelerator, BALANCED, batches[0]) for _ in range(2))
    nothing = torch.full_like(batches[0], float("nan"))
    assert not whole.take(0, [nothing]).taken
    assert not parts.take(0, nothing.chunk(4)).taken
    expected, values = whole.take(1, [batches[1]]).values, parts.take(1, batches[1].chunk(4)).values
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)


def test_shares_are_as_the_weights_say_whatever_the_scale_of_a_loss(accelerator, batches) -> None:
    loud, quiet = (
        begin(accelerator, replace(BALANCED, discriminators=DiscriminatorConfig()), batches[0]) for _ in range(2)
    )
    loud._objective.distances["waveform"] = lambda *pair: 1000 * quiet._objective.distances["waveform"](*pair)
    for first, second in zip(take(loud, batches[1:]), take(quiet, batches[1:]), strict=True):
        torch.testing.assert_close(first.values["gradient_norm"], second.values["gradient_norm"], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(first.values["waveform"], 1000 * second.values["waveform"], atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("recipe", [JUDGED, BALANCED])
def test_discriminators_judge_from_their_start_and_learn_in_every_second_step(accelerator, batches, recipe) -> None:
    trainer = begin(accelerator, recipe, batches[0])
    learned, judged = [], []
    for step, batch in enumerate(batches[1:]):
        before = flat(trainer.state_dict()["discriminators"]["network"])
        values = trainer.take(step, [batch]).values
        judged.append({"adversarial", "feature_matching", "discriminator"} <= values.keys())
        after = flat(trainer.state_dict()["discriminators"]["network"])
        learned.append(any(not torch.equal(after[name], before[name]) for name in after))
        assert ("discriminator_gradient_norm" in values) == learned[-1]
    assert judged == [False, False, True, True, True]
    assert learned == [False, False, True, False, True]


def test_discriminators_change_what_the_codec_learns(accelerator, batches) -> None:
    with_judges, without = (begin(accelerator, recipe, batches[0]) for recipe in (JUDGED, PLAIN))
    take(with_judges, batches[1:3])
    take(without, batches[1:3])
    assert_same(with_judges.codec.state_dict(), without.codec.state_dict())
    take(with_judges, batches[3:4], start=2)
    take(without, batches[3:4], start=2)
    weight = "decoder.0.weight"
    assert not torch.equal(with_judges.codec.state_dict()[weight], without.codec.state_dict()[weight])


def test_averaged_weights_follow_and_codebooks_are_those_of_the_last_step(accelerator, batches) -> None:
    trainer = begin(accelerator, PLAIN, batches[0])
    expected = {name: weight.detach().clone() for name, weight in trainer.codec.named_parameters()}
    for count, batch in enumerate(batches[1:], start=1):
        trainer.take(count - 1, [batch])
        decay = min(0.9, (1 + count) / (10 + count))
        for name, weight in trainer.codec.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
    averaged = trainer.averaged.state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(averaged[name], weight, msg=name)
    vectors = "quantizer.stages.2.codebook.vectors"
    assert torch.equal(averaged[vectors], trainer.codec.state_dict()[vectors])


def test_rates_are_warmed_up_and_lowered_each_from_its_own_start(accelerator, batches) -> None:
    trainer = begin(accelerator, JUDGED, batches[0])
    take(trainer, batches[1:5])
    expected = [1e-3 * cosine_with_warmup(3, 2, 20), 1e-3 * cosine_with_warmup(1, 2, 18)]
    assert list(trainer.learning_rates.values()) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("recipe", [PLAIN, BALANCED])
def test_a_step_that_is_not_finite_is_skipped_without_a_trace(accelerator, batches, recipe, bad: float) -> None:
    trainer, other = (begin(accelerator, recipe, batches[0]) for _ in range(2))
    take(trainer, batches[1:4])
    take(other, batches[1:4])
    broken = batches[4].clone()
    broken[3, 0, 1000] = bad
    assert not trainer.take(3, broken.chunk(2)).taken
    assert trainer.skipped_steps == 1
    state = trainer.state_dict()
    assert_same({**state, "skipped_steps": 0, "skipped_in_row": 0}, other.state_dict())
    for first, second in zip(take(trainer, batches[5:], 4), take(other, batches[5:], 4), strict=True):
        assert first.taken
        assert_same(first.values, second.values)
    assert trainer.skipped_steps == 1


def test_many_skipped_steps_in_a_row_end_the_run(accelerator, batches) -> None:
    trainer = begin(accelerator, PLAIN, batches[0])
    nothing = torch.full_like(batches[0], float("nan"))
    for step in range(2):
        trainer.take(step, [nothing])
    assert trainer.take(2, [batches[1]]).taken
    for step in range(3, 5):
        trainer.take(step, [nothing])
    with pytest.raises(DivergedError, match=r"^3 steps in a row had a loss or gradient that is not finite; lower "):
        trainer.take(5, [nothing])
    assert trainer.skipped_steps == 5


@pytest.mark.parametrize("recipe", [PLAIN, BALANCED])
def test_a_restored_trainer_goes_on_to_the_bit(accelerator, batches, recipe) -> None:
    trainer = begin(accelerator, recipe, batches[0])
    take(trainer, batches[1:4])
    restored = Trainer(accelerator, recipe)
    restored.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for first, second in zip(take(trainer, batches[4:], 3), take(restored, batches[4:], 3), strict=True):
        assert_same(first.values, second.values)
    assert_same(restored.state_dict(), trainer.state_dict())


def test_settings_of_the_optimizer_may_change_when_a_run_goes_on(accelerator, batches) -> None:
    trainer = begin(accelerator, PLAIN, batches[0])
    take(trainer, batches[1:3])
    changed = Trainer(accelerator, replace(PLAIN, optimizer=replace(OPTIMIZER, weight_decay=0.5, betas=(0.7, 0.8))))
    changed.load_state_dict(trainer.state_dict())
    (group,) = changed.state_dict()["generator"]["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["betas"]) == (0.5, (0.7, 0.8))


@pytest.mark.parametrize("accelerator", [{"cpu": True, "mixed_precision": "bf16"}], indirect=True)
def test_in_half_precision_it_learns_too(accelerator, batches) -> None:
    trainer = begin(accelerator, BALANCED, batches[0])
    losses = [trainer.take(step, [batches[1]]).values["waveform"].item() for step in range(20)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("accelerator", [{"mixed_precision": name} for name in ("bf16", "fp16")], indirect=True)
@pytest.mark.parametrize("recipe", [JUDGED, BALANCED])
def test_it_learns_on_a_gpu_in_either_half_precision(accelerator, batches, recipe) -> None:
    trainer = begin(accelerator, replace(recipe, run=replace(recipe.run, max_skipped=20)), batches[0].cuda())
    values = [trainer.take(min(step, 15), [batches[1].cuda()]).values["waveform"].item() for step in range(40)]
    assert values[-1] < 0.9 * values[0]
    assert trainer.skipped_steps < 20  # float16 looks for its scale


def test_a_loss_of_another_name_is_refused(accelerator) -> None:
    recipe = replace(PLAIN, adversarial=AdversarialConfig(loss="hing"))
    with pytest.raises(
        ValueError, match=r"^adversarial.loss must be one of hinge, least_squares; got 'hing'; did you mean"
    ):
        Trainer(accelerator, recipe)
