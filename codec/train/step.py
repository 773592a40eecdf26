"""A step of training: reconstruction, discriminators, codebooks, averaged weights.

Every loss but those of the quantizer is a function of the decoder's output, so its gradient is taken there first, by
each loss alone where shares are balanced, and passed on through the codec in one backward pass.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from codec.choose import choose
from codec.discriminators import build_discriminators
from codec.distributed import sum_over_ranks
from codec.losses import ADVERSARIAL_LOSSES, Balancer, feature_matching_loss
from codec.model import Codec, build_codec
from codec.train.objective import ADVERSARIAL, LOSSES, Objective
from codec.train.recipe import Recipe
from codec.train.schedule import geometric
from codec.train.trainee import Trainee

ParameterList = tuple[Tensor, ...] | list[Tensor]

QUANTIZER_LOSSES = ("commitment", "codebook")


class DivergedError(Exception):
    """Too many steps in a row had a loss or gradient that is not finite."""


class Outcome(NamedTuple):
    """What a step did.

    Attributes:
        values: Losses before they are weighted, and norms of gradients: scalars by name, of this rank.
        codes: [batch, num_quantizers, frames], of this rank.
        taken: False if the step was skipped, on all ranks, since its loss or gradient is not finite.
    """

    values: dict[str, Tensor]
    codes: Tensor
    taken: bool


class Trainer:
    """Codec and discriminators, and all else that changes from step to step.

    Ranks that are given the shares of a batch learn what one is that is given all of it, however many micro-batches
    the shares come in.

    Args:
        accelerator: Gives device, precision and ranks.
        recipe: Says everything else.

    Attributes:
        codec: The network itself.
        averaged: The moving average of its weights. Codebooks that are no weights are those of the last step.
        skipped_steps: How many steps were skipped.

    Raises:
        ValueError: A setting is out of range, or names a piece that does not exist.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe):
        self.recipe = recipe
        self.skipped_steps = 0
        self._skipped_in_row = 0
        self._accelerator = accelerator
        self.codec = build_codec(recipe.codec)
        # Codebooks learn once the gradients of all micro-batches are known to be finite.
        self.codec.quantizer.learner.manual = True
        self._objective = Objective(recipe.loss, self.codec.sample_rate).to(accelerator.device)
        # A copy from before Accelerate changes the forward method.
        self._averaged = AveragedModel(self.codec, accelerator.device, multi_avg_fn=self._average)
        self._generator = Trainee(accelerator, self.codec, recipe.optimizer)
        self._adversarial = choose(ADVERSARIAL_LOSSES, recipe.adversarial.loss, "adversarial.loss")
        self._judges: Trainee | None = None
        if recipe.discriminators.kinds:
            discriminators = build_discriminators(recipe.discriminators)
            self._judges = Trainee(accelerator, discriminators, recipe.adversarial.optimizer)
        # Of all losses, so that a run can go on with others.
        weights = {name: self._objective.weights.get(name, 0.0) for name in LOSSES}
        self._balancer = Balancer(weights).to(accelerator.device) if recipe.loss.balanced else None
        self._rehearsed: set[str] = set()
        self._rehearsing: set[str] = set()

    @property
    def averaged(self) -> Codec:
        """The codec with averaged weights."""
        return cast(Codec, self._averaged.module)

    def initialize(self, waveform: Tensor) -> None:
        """Place the codebooks by this rank's share of the audio for it, [batch, 1, time]; the stages one by one."""
        with torch.no_grad():
            self._generator.prepared(waveform)
        self.codec.quantizer.apply_update()
        self._averaged.update_parameters(self.codec)

    def take(self, step: int, waveforms: Sequence[Tensor]) -> Outcome:
        """Take a step; every rank must.

        Args:
            step: From 0 on; learning rates and temperature follow from it.
            waveforms: This rank's share of each micro-batch, all of one shape, [batch, 1, time].

        Raises:
            DivergedError: The step was skipped, as were the `run.max_skipped` before it.
        """
        self._schedule(step)
        judged, learning = self._judges_at(step)
        self._rehearse(waveforms, judged)
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self._accelerator.device))
        codes = []
        for index, waveform in enumerate(waveforms, start=1):
            with self._gradients_kept(local=index < len(waveforms)):
                values, batch_codes = self._accumulate(waveform, judged, learning, 1 / len(waveforms))
            codes.append(batch_codes)
            for name, value in values.items():
                sums[name] = sums[name] + value / len(waveforms)
        moving = [self._generator, *([self._judges] if self._judges and learning else [])]
        norms = [trainee.clip() for trainee in moving]
        values = dict(sums) | dict(zip(("gradient_norm", "discriminator_gradient_norm"), norms, strict=False))
        taken = self._all_finite(values)
        if taken:
            for trainee in moving:
                trainee.move()
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.update()
        for trainee in moving:
            trainee.forget()
        self._finish(taken)
        return Outcome(values, torch.cat(codes), taken)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Of the last step, by what they are called in the log."""
        rates = {"learning_rate": self._generator.learning_rate}
        if self._judges is not None:
            rates["discriminator_learning_rate"] = self._judges.learning_rate
        return rates

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, but for random states."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "skipped_steps": self.skipped_steps,
            "skipped_in_row": self._skipped_in_row,
            "rehearsed": sorted(self._rehearsed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            RuntimeError, ValueError, KeyError: It is of another model.
        """
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.skipped_steps = state["skipped_steps"]
        self._skipped_in_row = state["skipped_in_row"]
        self._rehearsed = set(state["rehearsed"])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "generator": self._generator,
            "averaged": self._averaged,
            "discriminators": self._judges,
            "balancer": self._balancer,
            "scaler": self._accelerator.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _schedule(self, step: int) -> None:
        steps, start = self.recipe.run.steps, self.recipe.adversarial.start
        self._generator.schedule(step, steps)
        if self._judges is not None:
            self._judges.schedule(max(0, step - start), steps - start)
        self.codec.quantizer.set_temperature(geometric(step, steps, *self.recipe.quantizer.temperature))

    def _judges_at(self, step: int) -> tuple[bool, bool]:
        """Whether the discriminators judge in a step, and whether they learn: functions of its number alone."""
        judged = self._judges is not None and step >= self.recipe.adversarial.start
        return judged, judged and step % self.recipe.adversarial.every == 0

    @contextmanager
    def _gradients_kept(self, local: bool) -> Iterator[None]:
        """If `local`, gradients add up on each rank until those of the last micro-batch are averaged with them."""
        with ExitStack() as stack:
            if local:
                for trainee in (self._generator, self._judges):
                    if trainee is not None:
                        stack.enter_context(self._accelerator.no_sync(trainee.prepared))
            yield

    def _accumulate(
        self, waveform: Tensor, judged: bool, learning: bool, share: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Add the gradients of a micro-batch, times its share of the batch, to those of the parameters."""
        output = self._generator.prepared(waveform)
        estimate = output.waveform.detach().requires_grad_()
        losses, discriminator_loss = self._losses_at(estimate, waveform, judged, learning)
        gradient = self._gradient_at(estimate, losses)
        weighted = sum(
            getattr(self.recipe.loss, name) * output.losses[name] for name in QUANTIZER_LOSSES if name in output.losses
        )
        # Its gradient at the output is `gradient`: one backward pass for the losses there and those of the quantizer.
        self._accelerator.backward(share * ((output.waveform * gradient).sum() + weighted))
        total = sum(self._objective.weights[name] * loss.detach() for name, loss in losses.items()) + weighted
        values = {"loss": total, **losses, **output.losses}
        if discriminator_loss is not None:
            values["discriminator"] = discriminator_loss
            if self._judges is not None and learning:
                # Not of the estimate, whose gradient is taken above.
                self._accelerator.backward(share * discriminator_loss, inputs=self._judges.parameters)
        return {name: value.detach() for name, value in values.items()}, output.codes

    def _losses_at(
        self, estimate: Tensor, target: Tensor, judged: bool, learning: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """All losses that are functions of the decoder's output, and what the discriminators minimize."""
        losses = self._objective(estimate, target)
        if not judged:
            return losses, None
        discriminator_loss, adversarial = self._judge(estimate, target, learning)
        return losses | adversarial, discriminator_loss

    def _rehearse(self, waveforms: Sequence[Tensor], judged: bool) -> None:
        """Where losses have no average norm yet, let the balancer have that of all micro-batches before the first."""
        # Once for each loss: one whose gradient is 0 has no norm afterwards either.
        names = {name for name in self._objective.weights if judged or name not in ADVERSARIAL} - self._rehearsed
        if self._balancer is None or len(waveforms) == 1 or not self._balancer.lacks(names):
            return
        self._rehearsing = names
        for waveform in waveforms:
            # Not the prepared one, which would wait for a backward pass.
            estimate = self.codec(waveform).waveform.detach().requires_grad_()
            losses, _ = self._losses_at(estimate, waveform, judged, learning=False)
            self._balancer.rehearse({name: self._differentiate(loss, estimate) for name, loss in losses.items()})
        self._balancer.settle()
        self.codec.quantizer.discard_update()

    def _judge(self, estimate: Tensor, target: Tensor, learning: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminators' loss, and what they let the codec learn from: one pass of them serves both."""
        assert self._judges is not None
        # A pass through the prepared network without a backward pass would leave the ranks waiting in the next.
        network = self._judges.prepared if learning else self._judges.network
        judgements = network(torch.cat([target, estimate]))
        real, fake = zip(*([logits.chunk(2) for logits, _ in judgements]), strict=True)
        losses = {}
        if "adversarial" in self._objective.weights:
            losses["adversarial"] = self._adversarial.generator(fake)
        if "feature_matching" in self._objective.weights:
            pairs = [[layer.chunk(2) for layer in features] for _, features in judgements]
            losses["feature_matching"] = feature_matching_loss(
                [[layer[0] for layer in layers] for layers in pairs],
                [[layer[1] for layer in layers] for layers in pairs],
            )
        return self._adversarial.discriminator(real, fake), losses

    def _gradient_at(self, estimate: Tensor, losses: Mapping[str, Tensor]) -> Tensor:
        """Of the weighted losses at the decoder's output, [batch, 1, time]."""
        if self._balancer is None:
            total = sum(self._objective.weights[name] * loss for name, loss in losses.items())
            return self._differentiate(cast(Tensor, total), estimate)
        return self._balancer.combine({name: self._differentiate(loss, estimate) for name, loss in losses.items()})

    def _differentiate(self, loss: Tensor, estimate: Tensor) -> Tensor:
        # Discriminators in float16 need the scale that keeps small gradients from vanishing.
        scaler = self._accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        # The graph is needed again: by other losses, and by the discriminators' own.
        (gradient,) = torch.autograd.grad(scale * loss, estimate, retain_graph=True)
        return gradient / scale

    def _all_finite(self, values: Mapping[str, Tensor]) -> bool:
        """Whether losses and gradients are finite on all ranks."""
        bad = torch.stack([~value.isfinite() for value in values.values()]).sum()
        return not sum_over_ranks(bad.float())[0]

    def _finish(self, taken: bool) -> None:
        rehearsed, self._rehearsing = self._rehearsing, set()
        if taken:
            self._rehearsed |= rehearsed
            self.codec.quantizer.apply_update()
            self._averaged.update_parameters(self.codec)
            if self._balancer is not None:
                self._balancer.update()
            self._skipped_in_row = 0
            return
        self.codec.quantizer.discard_update()
        if self._balancer is not None:
            self._balancer.discard()
        self.skipped_steps += 1
        self._skipped_in_row += 1
        if self._skipped_in_row > self.recipe.run.max_skipped:
            raise DivergedError(
                f"{self._skipped_in_row} steps in a row had a loss or gradient that is not finite; lower "
                "optimizer.learning_rate, or look for broken audio, and go on from a checkpoint with --resume"
            )

    @torch.no_grad()
    def _average(self, averaged: ParameterList, current: ParameterList, count: Tensor | int) -> None:
        """Move averaged weights on; in the first steps faster, lest the initial weights stay in for long."""
        decay = min(self.recipe.run.averaging, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - decay)
