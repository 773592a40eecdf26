"""The learning rate over a run."""

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
