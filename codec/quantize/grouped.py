"""Grouped residual vector quantization: parts of each vector go to residual stacks of their own."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from codec.quantize.codebook import Learner, number_codebooks
from codec.quantize.residual import ResidualVQ
from codec.quantize.result import Quantization, mean_losses


class GroupedResidualVQ(nn.Module):
    """Vectors are cut along `dim`, and each part is quantized by a residual stack (HiFi-Codec, arXiv 2305.02765).

    For few stages: two groups of two stages often beat four stages in a row, at the same bitrate.

    All groups keep the same stages of an example in quantizer dropout, at one collective a group.

    Args:
        groups: The stacks, of one `num_quantizers`, `heads` and `channel_last`; vectors are cut into parts of their
            dims.
        manual: As in `VectorQuantize`, for all groups.

    Raises:
        ValueError: No groups, or groups that do not fit together.
    """

    def __init__(self, groups: Sequence[ResidualVQ], *, manual: bool = False):
        super().__init__()
        for name in ("num_quantizers", "heads", "channel_last"):
            values = [getattr(group, name) for group in groups]
            if len(set(values)) != 1:
                raise ValueError(f"groups must be one or more of equal {name}; got {values}")
        if any(group.learner.manual for group in groups):
            raise ValueError("manual must be given to the GroupedResidualVQ, not to its groups")
        self.groups = nn.ModuleList(groups)
        self.dims = [group.dim for group in groups]
        self.dim = sum(self.dims)
        self.num_quantizers = groups[0].num_quantizers
        self.channel_last = groups[0].channel_last
        self.learner = Learner(manual)
        for group in groups:
            group.learner = self.learner  # whose batches that wait count in their draws
        number_codebooks([codebook for group in groups for codebook in group.codebooks])

    @property
    def codebook_sizes(self) -> list[int]:
        """Number of codes of each stage, group after group."""
        return [size for group in self._groups() for size in group.codebook_sizes]

    def set_temperature(self, temperature: float) -> None:
        """Change the temperature of all groups; see `VectorQuantize.set_temperature`."""
        for group in self._groups():
            group.set_temperature(temperature)

    def apply_update(self) -> None:
        """With `manual`, let all codebooks learn; see `VectorQuantize.apply_update`."""
        self.learner.apply()

    def discard_update(self) -> None:
        """With `manual`, forget the batches that wait; see `VectorQuantize.discard_update`."""
        self.learner.discard()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        target_codes: Tensor | None = None,
    ) -> Quantization:
        """Quantize each part; arguments and errors as in `ResidualVQ.forward`.

        Returns:
            `quantized` in the shape of `x`; codes [batch, groups, num_quantizers, *positions]; losses as means over
            the groups.
        """
        targets = [None] * len(self.dims) if target_codes is None else self._by_group(target_codes, "target_codes")
        parts = [
            group.observe(part, mask, lengths=lengths, target_codes=target)
            for group, part, target in zip(self._groups(), self._cut(x), targets, strict=True)
        ]
        if self.training:
            self.learner.take([observation for _, observations in parts for observation in observations], x.shape[0])
        return Quantization(
            torch.cat([result.quantized for result, _ in parts], dim=self._axis),
            torch.stack([result.codes for result, _ in parts], dim=1),
            mean_losses([result.losses for result, _ in parts]),
        )

    def encode(
        self, x: Tensor, num_quantizers: int | None = None, *, beam_size: int = 1, rate_weight: float = 0.0
    ) -> Tensor:
        """Codes of the first stages of each group; arguments and errors as in `ResidualVQ.encode`.

        Returns:
            [batch, groups, num_quantizers, *positions], int64.
        """
        parts = [
            group.encode(part, num_quantizers, beam_size=beam_size, rate_weight=rate_weight)
            for group, part in zip(self._groups(), self._cut(x), strict=True)
        ]
        return torch.stack(parts, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of the codes of the first stages of each group.

        Args:
            codes: [batch, groups, any number of stages, *positions].

        Returns:
            [batch, dim, *positions], or [batch, *positions, dim] if the stages are channel-last.

        Raises:
            ValueError: Another number of groups, more stages than there are, or a code that is not in its codebook.
            RuntimeError: Before the first training batch.
        """
        pairs = zip(self._groups(), self._by_group(codes, "codes"), strict=True)
        return torch.cat([group.decode(part) for group, part in pairs], dim=self._axis)

    @property
    def _axis(self) -> int:
        return -1 if self.channel_last else 1

    def _groups(self) -> list[ResidualVQ]:
        return [cast(ResidualVQ, group) for group in self.groups]

    def _by_group(self, codes: Tensor, name: str) -> tuple[Tensor, ...]:
        if codes.shape[1] != len(self.dims):
            raise ValueError(f"{name} must have {len(self.dims)} groups along axis 1; got {codes.shape[1]}")
        return codes.unbind(1)

    def _cut(self, x: Tensor) -> tuple[Tensor, ...]:
        if x.ndim < 2 or x.shape[self._axis] != self.dim:
            raise ValueError(f"x must have size {self.dim} along axis {self._axis}; got shape {tuple(x.shape)}")
        return x.split(self.dims, dim=self._axis)
