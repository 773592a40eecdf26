"""How much of a codebook is in use: functions of code counts."""

import torch
from einops import rearrange
from torch import Tensor


def count_codes(codes: Tensor, codebook_size: int, mask: Tensor | None = None) -> Tensor:
    """How often each stage chose each code.

    Args:
        codes: [batch, num_quantizers, *positions], int64.
        codebook_size: Number of codes.
        mask: True where a position is real, [batch, *positions]. Default: all real.

    Returns:
        Counts, [num_quantizers, codebook_size], int64.
    """
    by_stage = rearrange(codes, "b q ... -> q (b ...)")
    if mask is not None:
        by_stage = by_stage[:, mask.reshape(-1).bool()]
    counts = torch.zeros(by_stage.shape[0], codebook_size, dtype=torch.int64, device=codes.device)
    return counts.scatter_add_(1, by_stage, torch.ones_like(by_stage))


def perplexity(counts: Tensor) -> Tensor:
    """Effective number of codes: the exponential of the entropy of their distribution.

    Args:
        counts: [..., codebook_size].

    Returns:
        From 1 (one code) to `codebook_size` (all equally often), [...], float64; 1 where nothing was counted.
    """
    counts = counts.double()
    probabilities = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    return torch.special.entr(probabilities).sum(-1).exp()


def dead_share(counts: Tensor, ratio: float = 0.0) -> Tensor:
    """Share of the codes that are used less than `ratio` times as often as in uniform use.

    Args:
        counts: [..., codebook_size].
        ratio: With 0, a code is dead if it never occurs.

    Returns:
        From 0 to 1, [...], float64. Meaningful only where far more codes were counted than the codebook has.
    """
    counts = counts.double()
    uniform = counts.sum(-1, keepdim=True) / counts.shape[-1]
    dead = counts <= 0 if ratio == 0 else counts < ratio * uniform
    return dead.double().mean(-1)
