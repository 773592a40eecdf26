"""Where the time of a training step goes: by part of the step, and by operator.

The forward pass of a part is what runs in its methods. Its backward pass is what undoes that: autograd numbers the
nodes of its graph, and the profiler notes the number with the operator that makes a node and where that is evaluated.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.optim.swa_utils import AveragedModel
from torch.profiler import ProfilerActivity, profile, record_function

from codec.losses import Balancer
from codec.model import Codec
from codec.train.objective import Objective
from codec.train.step import Trainer
from codec.train.trainee import Trainee

LABEL = "part: "
EVALUATION = "autograd::engine::evaluate_function: "
OTHER = "other"


class Profile(NamedTuple):
    """Shares of the time, the largest first.

    Attributes:
        parts: Of each part of the step, forward and backward.
        operators: Of each operator, without those that it calls; and of what is none: Python, and waiting.
    """

    parts: dict[str, float]
    operators: dict[str, float]


def profile_step(step: Callable[[], object], device: str) -> Profile:
    """Run something whose parts are labelled.

    Args:
        step: What to run.
        device: "cpu", or "cuda": then it is the GPU's time that is shared out, not that of the CPU, which runs ahead.
    """
    # On a machine without a GPU, a library of the profiler calls that an error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler, part(OTHER):
        step()
    # Kernels are counted with the operators that launch them.
    events = [event for event in profiler.events() if event.device_type == DeviceType.CPU]
    own_time = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    return share_out(events, own_time)


def share_out(events: Iterable[FunctionEvent], own_time: str) -> Profile:
    """Add up an attribute of events by the part, and by the operator, that they belong to."""
    events = sorted(events, key=lambda event: event.time_range.start)
    # Operators that make no node bear the number of the next node, so the last to bear a number made the node.
    forward = [event for event in events if event.sequence_nr >= 0 and not is_backward(event)]
    makers = {event.sequence_nr: part_of(event, {}) for event in forward}
    parts: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    for event in events:
        operator = "between operators" if event.name.startswith(LABEL) else event.name
        parts[part_of(event, makers)] += getattr(event, own_time)
        operators[operator] += getattr(event, own_time)
    return Profile(shares(parts), shares(operators))


def part_of(event: FunctionEvent, makers: dict[int, str]) -> str:
    """The part that an event belongs to; `makers` are the parts that made the nodes, by their numbers."""
    for ancestor in lineage(event):
        if ancestor.name.startswith(LABEL):
            return ancestor.name.removeprefix(LABEL)
        if ancestor.name.startswith(EVALUATION):
            return f"{makers.get(ancestor.sequence_nr, OTHER)}, backward"
    return OTHER


def is_backward(event: FunctionEvent) -> bool:
    return any(ancestor.name.startswith(EVALUATION) for ancestor in lineage(event))


def lineage(event: FunctionEvent | None) -> Iterator[FunctionEvent]:
    """An event, what called it, and so on."""
    while event is not None:
        yield event
        event = event.cpu_parent


def shares(times: Counter[str]) -> dict[str, float]:
    total = times.total()
    return {name: time / total for name, time in times.most_common()}


def label_training() -> None:
    """Label what `Trainer.take` calls, but for the codec's parts, in all trainers of this process, for good."""
    for owner, method, name in (
        (Objective, "forward", "losses"),
        (Balancer, "combine", "losses"),
        (Balancer, "update", "losses"),
        (Trainer, "_judge", "discriminators"),
        (Trainee, "clip", "optimizer"),
        (Trainee, "move", "optimizer"),
        (Trainee, "forget", "optimizer"),
        (AveragedModel, "update_parameters", "averaging"),
    ):
        label(owner, method, name)


def label_codec(codec: Codec) -> None:
    """Label the parts of a codec, for good."""
    label(codec.encoder, "forward", "encoder")
    label(codec.quantizer, "forward", "quantizer")
    label(codec.quantizer, "apply_update", "quantizer")
    label(codec.decoder, "forward", "decoder")


def label(owner: object, method: str, name: str) -> None:
    """Make the calls of a method, of an object or a class, known as a part of the step."""
    call = getattr(owner, method)

    @functools.wraps(call)
    def labelled(*arguments: Any, **options: Any) -> Any:
        with part(name):
            return call(*arguments, **options)

    setattr(owner, method, labelled)


def part(name: str) -> AbstractContextManager[torch.autograd.profiler.record_function]:
    """Make what runs inside known as a part of the step."""
    return record_function(LABEL + name)
