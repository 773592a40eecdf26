"""What changes over a run: the learning rate, the temperature."""

import math


def cosine_with_warmup(step: int, warmup_steps: int, steps: int) -> float:
    """Factor on the learning rate: up linearly, then down along a half cosine, to 0 at the end.

    Args:
        step: From 0 on.
        warmup_steps: The factor is 1 after as many steps.
        steps: Length of the run.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def geometric(step: int, steps: int, first: float, last: float) -> float:
    """From `first` at step 0 to `last` at the last step, multiplied by the same factor at each.

    Args:
        step: From 0 on.
        steps: Length of the run.
        first: Positive.
        last: Positive.
    """
    return float(first * (last / first) ** min(1.0, step / max(1, steps - 1)))
