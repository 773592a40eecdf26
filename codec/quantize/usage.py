"""How much of a codebook is in use."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from codec.distributed import sum_over_ranks


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


class UsageReport(NamedTuple):
    """Use of the codes of every stage and head in a window of steps; all [num_quantizers, heads], float64.

    Attributes:
        perplexity: Effective number of codes, from 1 to the size of the codebook.
        entropy: Of the codes, as a share of what the codebook can have, from 0 to 1.
        dead_share: Share of the codes that never occurred.
        bits_per_frame: Entropy in bits: what a position takes in an ideal entropy coder that knows how often each
            code occurs. Their sum is that of the whole stack.
    """

    perplexity: Tensor
    entropy: Tensor
    dead_share: Tensor
    bits_per_frame: Tensor


class Usage:
    """Counts the codes of all stages and heads from one report to the next.

    Adding is local: there is one collective in a report, and none in between.

    Args:
        codebook_sizes: Number of codes of each stage (`ResidualVQ.codebook_sizes`); of each stage of each group
            (`GroupedResidualVQ.codebook_sizes`), whose codes are then added as `codes.flatten(1, 2)`.
        heads: Of each stage.

    Raises:
        ValueError: There is no stage, or a size or `heads` is not positive.
    """

    def __init__(self, codebook_sizes: Sequence[int], heads: int = 1):
        if min([*codebook_sizes, heads], default=0) < 1 or not codebook_sizes:
            raise ValueError(f"codebook_sizes and heads must be positive; got {list(codebook_sizes)}, {heads}")
        self.codebook_sizes = list(codebook_sizes)
        self.heads = heads
        self._counts: Tensor | None = None
        self._batches = 0
        self._device = torch.device("cpu")

    def add(self, codes: Tensor, mask: Tensor | None = None) -> None:
        """Take in the codes of a step.

        Args:
            codes: [batch, num_quantizers, *positions], or [batch, num_quantizers, heads, *positions]; int64.
            mask: True where a position is real, [batch, *positions]. Default: all real.

        Raises:
            ValueError: Codes are of another number of stages or heads.
        """
        expected = (len(self.codebook_sizes), self.heads)[: 1 if self.heads == 1 else 2]
        if codes.shape[1 : 1 + len(expected)] != expected:
            raise ValueError(f"codes must have axes {expected} after the batch; got shape {tuple(codes.shape)}")
        joined = codes if self.heads == 1 else rearrange(codes, "b q h ... -> b (q h) ...")
        counts = count_codes(joined, max(self.codebook_sizes), mask)
        self._counts = counts if self._counts is None else self._counts + counts
        self._batches += 1
        self._device = codes.device

    def report(self) -> UsageReport:
        """Use since the last report, on all ranks; every rank must ask. A new window begins.

        Raises:
            RuntimeError: No codes were added, on any rank.
        """
        own = self._counts
        if own is None:
            shape = len(self.codebook_sizes) * self.heads, max(self.codebook_sizes)
            own = torch.zeros(shape, dtype=torch.int64, device=self._device)
        # A rank that added none takes part all the same: the others wait for it.
        counts, batches = sum_over_ranks(own, own.new_tensor(self._batches))
        self._counts, self._batches = None, 0
        if batches == 0:
            raise RuntimeError("codes must be added before a report; there were none")
        counts = counts.view(len(self.codebook_sizes), self.heads, -1)
        sizes = torch.tensor(self.codebook_sizes, dtype=torch.float64, device=counts.device).unsqueeze(1)
        used = (counts > 0).sum(-1)
        effective = perplexity(counts)
        bits = effective.log2()
        # A codebook of one code has nothing to say, and says it all.
        entropy = torch.where(sizes > 1, bits / sizes.log2().clamp_min(1e-9), 1.0)
        return UsageReport(effective, entropy, 1 - used / sizes, bits)
