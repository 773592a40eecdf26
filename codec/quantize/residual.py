"""Residual vector quantization: each stage quantizes what the stages before it left."""

from typing import cast

import torch
from torch import Tensor, nn

from codec.quantize.vector import Quantization, VectorQuantize, clear_padding, from_rows, mask_rows, to_rows


class ResidualVQ(nn.Module):
    """A stack of quantizers, each of which quantizes the residual of those before (SoundStream, arXiv 2107.03312).

    Codes of the first stages alone are valid: the bitrate is chosen when encoding, or later by dropping stages.

    Args:
        stages: The quantizers, all of one `dim` and channel-first.
        dropout: Probability that an example of a training batch is quantized by the first stages only, their number
            drawn uniformly (quantizer dropout). Every stage still runs and learns on every example.

    Raises:
        ValueError: No stages, stages of different dims, or a probability outside [0, 1].
    """

    def __init__(self, stages: list[VectorQuantize], dropout: float = 0.0):
        super().__init__()
        if len({stage.dim for stage in stages}) != 1:
            raise ValueError(f"stages must be one or more of equal dim; got dims {[stage.dim for stage in stages]}")
        if any(stage.channel_last for stage in stages):
            raise ValueError("stages must be channel-first; got one with channel_last=True")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be in [0, 1]; got {dropout}")
        self.stages = nn.ModuleList(stages)
        self.dim = stages[0].dim
        self.dropout = dropout

    @property
    def num_quantizers(self) -> int:
        """Number of stages."""
        return len(self.stages)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantization:
        """Quantize by all stages; in training mode, learn as well, and drop stages from what is returned.

        Args:
            x: [batch, dim, *positions].
            mask: True where a position is real, [batch, *positions]. Default: all real.

        Returns:
            `quantized` in the shape of `x`; `codes` of every stage, [batch, num_quantizers, *positions]; losses as
            means over the stages.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, channel_last=False)
            row_mask = mask_rows(mask, positions)
            rows = clear_padding(rows, row_mask)
            result = self._quantize_rows(rows, row_mask, self._draw_depths(rows, positions))
            codes = result.codes.view(self.num_quantizers, *positions).movedim(0, 1)
            quantized = from_rows(result.quantized, positions, channel_last=False).to(x.dtype)
            return Quantization(quantized, codes, result.losses)

    def encode(self, x: Tensor, num_quantizers: int | None = None) -> Tensor:
        """Codes of the first stages; never changes state.

        Args:
            x: [batch, dim, *positions].
            num_quantizers: How many stages. Default: all.

        Returns:
            [batch, num_quantizers, *positions], int64.

        Raises:
            ValueError: There are not so many stages, or `x` is of another shape.
            RuntimeError: Before the first training batch.
        """
        stages = self._first_stages(self.num_quantizers if num_quantizers is None else num_quantizers)
        with torch.autocast(x.device.type, enabled=False):
            residual, positions = to_rows(x, self.dim, channel_last=False)
            codes = []
            for stage in stages:
                codes.append(stage.encode_rows(residual))
                residual = residual - stage.look_up_rows(codes[-1])
            return torch.stack([stage_codes.view(positions) for stage_codes in codes], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the vectors of the codes of the first stages.

        Args:
            codes: [batch, any number of stages, *positions].

        Returns:
            [batch, dim, *positions].

        Raises:
            ValueError: More stages than there are, or a code that is not in its codebook.
            RuntimeError: Before the first training batch.
        """
        stages = self._first_stages(codes.shape[1])
        with torch.autocast(codes.device.type, enabled=False):
            positions = codes[:, 0].shape
            rows = torch.zeros(positions.numel(), self.dim, device=codes.device)
            for stage, stage_codes in zip(stages, codes.unbind(1), strict=True):
                rows = rows + stage.decode_rows(stage_codes.reshape(-1))
            return from_rows(rows, positions, channel_last=False)

    def _quantize_rows(self, rows: Tensor, mask: Tensor | None, depths: Tensor | None) -> Quantization:
        # Two residuals of equal value. Through the first, the estimator's gradient arrives at the encoder once, not
        # once for each stage: what a stage passes on is subtracted from what the next one sees. In the second the
        # quantized vectors are constants, else no commitment loss but the first stage's would arrive at all.
        residual, commitment_residual = rows, rows
        quantized = torch.zeros_like(rows)
        codes, losses = [], []
        for index, stage in enumerate(self._first_stages(self.num_quantizers)):
            result = stage.quantize_rows(residual, commitment_residual, mask)
            residual = residual - result.quantized
            commitment_residual = commitment_residual - result.quantized.detach()
            kept = result.quantized if depths is None else result.quantized * (depths > index)
            quantized = quantized + kept
            codes.append(result.codes)
            losses.append(result.losses)
        means = {name: torch.stack([stage[name] for stage in losses]).mean() for name in losses[0]}
        return Quantization(quantized, torch.stack(codes), means)

    def _draw_depths(self, rows: Tensor, positions: torch.Size) -> Tensor | None:
        """How many stages each row keeps, [n, 1]; equal within an example. None: all."""
        if not self.training or self.dropout == 0:
            return None
        batch = positions[0]
        drawn = torch.randint(1, self.num_quantizers + 1, (batch,), device=rows.device)
        dropped = torch.rand(batch, device=rows.device) < self.dropout
        depths = torch.where(dropped, drawn, self.num_quantizers)
        return depths.repeat_interleave(positions[1:].numel()).unsqueeze(1)

    def _first_stages(self, count: int) -> list[VectorQuantize]:
        if not 1 <= count <= self.num_quantizers:
            raise ValueError(f"num_quantizers must be from 1 to {self.num_quantizers}; got {count}")
        return cast(list[VectorQuantize], list(self.stages)[:count])
