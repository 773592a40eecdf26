"""Weights that mean what they say: each loss's share of the gradient that reaches the decoder (arXiv 2210.13438, 3.4).

A loss L_i of a batch of B examples is the mean of the losses l_i(x_b) of its decoded examples x_b. Its gradient with
regard to one of them is that of the example's own loss, divided by B:

    g_ib = dL_i/dx_b = (1/B) dl_i/dx_b

In place of the sum of the gradients of the losses at hand, this is passed on, with R the norm wanted:

    g_b = R sum_i (w_i / sum_j w_j) g_ib / <n_i>        n_i = sum_b ‖g_ib‖ = mean_b ‖dl_i/dx_b‖

<n_i> is a moving average of n_i, which is B times the mean over examples of ‖g_ib‖, and so does not depend on B. Nor
does it depend on how a batch is cut into M equal parts, held by ranks or accumulated one after the other: n_i of a part
is the mean over the part's examples, and the mean of those means is n_i of the batch. As all parts are divided by the
same <n_i>, the g_b of a part is M times that of the whole batch, as the gradient of any mean over a part is; averaging
the weights' gradients over ranks and micro-batches takes the M off again. For that, the averages stand still within an
optimizer step. Its norms are summed up, and move the averages once, at its end.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from codec.distributed import sum_over_ranks


class Balancer(nn.Module):
    """Scales the gradients of several losses to fixed shares, and adds them up.

    In each optimizer step, `combine` is called for every micro-batch, then `update` once; or `discard`, if the step is
    skipped. Every rank must make the same calls, with the same losses. Where a loss has no average yet, the norm of the
    first micro-batch stands in, unless all of them are rehearsed: `rehearse` for each, then `settle`, then the step.

    Args:
        weights: Share of each loss, not negative. A loss of weight 0 is left out.
        total_norm: Norm of the gradient passed on, for a mean over one example, if all losses pull the same way.
        decay: Weight of the past in the moving averages of the norms.

    Raises:
        ValueError: A weight is negative, `total_norm` is not positive, or `decay` is not in [0, 1).

    Attributes:
        sums: Decayed sums of the norms of each loss, in the order of `weights`, [losses].
        counts: Decayed number of the norms in them, [losses].
        pending: Norms of this rank's examples since the last update, times the batch size, and examples, [2, losses].
        provisional: Norms in use until the next update where there is no average; 0 where there are none, [losses].
    """

    sums: Tensor
    counts: Tensor
    pending: Tensor
    provisional: Tensor

    def __init__(self, weights: Mapping[str, float], total_norm: float = 1.0, decay: float = 0.999):
        super().__init__()
        if not all(weight >= 0 for weight in weights.values()):
            raise ValueError(f"weights must not be negative; got {dict(weights)}")
        if not total_norm > 0:
            raise ValueError(f"total_norm must be positive; got {total_norm}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}")
        self.weights = dict(weights)
        self.total_norm = total_norm
        self.decay = decay
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("counts", torch.zeros(len(weights)))
        self.register_buffer("pending", torch.zeros(2, len(weights)), persistent=False)
        self.register_buffer("provisional", torch.zeros(len(weights)), persistent=False)

    @property
    def norms(self) -> dict[str, float]:
        """Moving average of each loss's norm, of those that have one."""
        averages = zip(self.weights, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in averages if count > 0}

    @torch.no_grad()
    def combine(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The gradient to pass on to the decoder.

        Enters a collective where a loss has no average yet: its norm in this micro-batch, on all ranks, is used until
        the next `update`.

        Args:
            gradients: Of each loss, a mean over this rank's micro-batch, with regard to the decoder's output, [batch,
                channels, time].

        Returns:
            Of the shape and type of the gradients. Not finite if one of them is not.

        Raises:
            ValueError: A loss has no weight, or none has a positive one.
        """
        names = self._wanted(gradients)
        norms = self._norms_in_use(self._observe(gradients, names))[self._indices(names)]
        shares = norms.new_tensor([self.weights[name] for name in names])
        shares *= self.total_norm / shares.sum()
        # A norm of 0 comes with gradients of 0.
        factors = torch.where(norms == 0, 0, shares / norms)
        scaled = [factor * gradients[name].float() for factor, name in zip(factors, names, strict=True)]
        return sum(scaled[1:], start=scaled[0]).type_as(gradients[names[0]])

    def lacks(self, names: Iterable[str]) -> bool:
        """Whether one of these losses has no average yet."""
        known = self.norms
        return any(name not in known for name in names if self.weights[name] > 0)

    @torch.no_grad()
    def rehearse(self, gradients: Mapping[str, Tensor]) -> None:
        """Take note of norms ahead of a step; arguments and errors as in `combine`."""
        self._observe(gradients, self._wanted(gradients))

    @torch.no_grad()
    def settle(self) -> None:
        """Let norms that were rehearsed, on all ranks, stand in for averages that are not there, until `update`."""
        (pending,) = sum_over_ranks(self.pending)
        self.provisional.copy_(pending[0] / pending[1].clamp_min(1))
        self.pending.zero_()

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages by the norms since the last update, in one collective; at the end of an optimizer step.

        A norm that is not finite, or 0, says nothing about a loss: its average stays.
        """
        (pending,) = sum_over_ranks(self.pending)
        norms = pending[0] / pending[1].clamp_min(1)
        moved = norms.isfinite() & (norms > 0)
        self.sums.copy_(torch.where(moved, self.decay * self.sums + norms, self.sums))
        self.counts.copy_(torch.where(moved, self.decay * self.counts + 1, self.counts))
        self.discard()

    def discard(self) -> None:
        """Forget the norms since the last update: of a step that is skipped."""
        self.pending.zero_()
        self.provisional.zero_()

    def _wanted(self, gradients: Mapping[str, Tensor]) -> list[str]:
        """Losses of positive weight, in the order of `weights`."""
        unknown = [name for name in gradients if name not in self.weights]
        if unknown:
            raise ValueError(
                f"gradients must be of losses with a weight, {', '.join(self.weights)}; got {unknown[0]!r}"
            )
        names = [name for name, weight in self.weights.items() if weight > 0 and name in gradients]
        if not names:
            raise ValueError(f"gradients must hold a loss of positive weight; got {list(gradients)}")
        return names

    def _indices(self, names: Sequence[str]) -> list[int]:
        return [list(self.weights).index(name) for name in names]

    def _observe(self, gradients: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        """Add what `_measure` gives of these losses to what is pending, and return it, 0 for the others."""
        observed = torch.zeros_like(self.pending)
        observed[:, self._indices(names)] = _measure([gradients[name] for name in names])
        self.pending += observed
        return observed

    def _norms_in_use(self, observed: Tensor) -> Tensor:
        """Averages of the norms as of before this step, [losses]; provisional ones where there is no average."""
        known = torch.where(self.counts > 0, self.sums / self.counts, self.provisional)
        missing = (observed[1] > 0) & ~(known > 0)
        # Ranks agree whether there are any: they have equal averages and the same losses.
        if missing.any():
            norms, examples = sum_over_ranks(*observed)
            known = torch.where(missing, norms / examples.clamp_min(1), known)
            self.provisional.copy_(known)
        return known


def _measure(gradients: Sequence[Tensor]) -> Tensor:
    """Norm n_i of each gradient, times the batch size, and that size: sums that add up over batches; [2, losses]."""
    norms = torch.stack(
        [torch.linalg.vector_norm(rearrange(g.float(), "b ... -> b (...)"), dim=1).sum() for g in gradients]
    )
    sizes = norms.new_tensor([g.shape[0] for g in gradients])
    return torch.stack([norms * sizes, sizes])
