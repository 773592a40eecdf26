"""Residual vector quantization: each stage quantizes what the stages before it left."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from codec.distributed import rank, sum_over_ranks
from codec.quantize.beam import BeamSearch, check_rate_weight
from codec.quantize.codebook import Codebook, Learner, Observation, generator, number_codebooks
from codec.quantize.gradient import carry
from codec.quantize.initialize import own_row_counts
from codec.quantize.result import Quantization, RowQuantization, Targets, mean_losses
from codec.quantize.rows import Positions, keeping_type, to_rows
from codec.quantize.vector import VectorQuantize


class ResidualVQ(nn.Module):
    """A stack of quantizers, each of which quantizes the residual of those before (SoundStream, arXiv 2107.03312).

    Codes of the first stages alone are valid: the bitrate is chosen when encoding, or later by dropping stages.

    Args:
        stages: The quantizers, of equal `dim`, `heads` and `channel_last`; sizes and all else may differ. A quantizer
            that stands there several times, as in `[stage] * 8`, shares its codebook among those stages.
        dim: Size of the vectors. Default: that of the stages. If it differs, vectors are projected to that of the
            stages before the first, and back after the last (as in EnCodec's descendants; DAC projects in each stage,
            which `VectorQuantize(codebook_dim=...)` does).
        dropout: Probability that an example of a training batch is quantized by the first stages only, their number
            drawn uniformly (quantizer dropout). Every stage still runs and learns on every example.
        dropout_multiple: The numbers drawn are multiples of this, and the number of all stages.
        manual: As in `VectorQuantize`, for the whole stack.

    Raises:
        ValueError: No stages, stages that do not fit together, or a probability outside [0, 1].
    """

    def __init__(
        self,
        stages: Sequence[VectorQuantize],
        *,
        dim: int | None = None,
        dropout: float = 0.0,
        dropout_multiple: int = 1,
        manual: bool = False,
    ):
        super().__init__()
        for name in ("dim", "heads", "channel_last"):
            values = [getattr(stage, name) for stage in stages]
            if len(set(values)) != 1:
                raise ValueError(f"stages must be one or more of equal {name}; got {values}")
        if any(stage.learner.manual for stage in stages):
            raise ValueError("manual must be given to the stack, not to its stages")
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be positive; got {dim}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be in [0, 1]; got {dropout}")
        if not 1 <= dropout_multiple <= len(stages):
            raise ValueError(f"dropout_multiple must be from 1 to {len(stages)}; got {dropout_multiple}")
        distinct = list(dict.fromkeys(stages))
        self.stages = nn.ModuleList(distinct)
        # Which of them stands where: a shared one is in the state dict once.
        self.order = [distinct.index(stage) for stage in stages]
        self.dim = stages[0].dim if dim is None else dim
        self.heads = stages[0].heads
        self.channel_last = stages[0].channel_last
        self.dropout = dropout
        self.dropout_multiple = dropout_multiple
        self.learner = Learner(manual)
        number_codebooks(self.codebooks)
        projected = self.dim != stages[0].dim
        self.project_in = nn.Linear(self.dim, stages[0].dim) if projected else nn.Identity()
        self.project_out = nn.Linear(stages[0].dim, self.dim) if projected else nn.Identity()

    @property
    def num_quantizers(self) -> int:
        """Number of stages."""
        return len(self.order)

    @property
    def codebooks(self) -> list[Codebook]:
        """All codebooks, a shared one once."""
        return [codebook for stage in self.stages for codebook in cast(VectorQuantize, stage).codebooks]

    @property
    def codebook_sizes(self) -> list[int]:
        """Number of codes of each stage."""
        return [stage.codebook_size for stage in self._first_stages(self.num_quantizers)]

    def set_temperature(self, temperature: float) -> None:
        """Change the temperature of all stages; see `VectorQuantize.set_temperature`."""
        for stage in self.stages:
            cast(VectorQuantize, stage).set_temperature(temperature)

    def apply_update(self) -> None:
        """With `manual`, let all codebooks learn; see `VectorQuantize.apply_update`."""
        self.learner.apply()

    def discard_update(self) -> None:
        """With `manual`, forget the batches that wait; see `VectorQuantize.discard_update`."""
        self.learner.discard()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ResidualVQ":
        return super()._apply(keeping_type(fn), recurse)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        target_codes: Tensor | None = None,
    ) -> Quantization:
        """Quantize by all stages; in training mode, learn as well, and drop stages from what is returned.

        Args:
            x: [batch, dim, *positions], or [batch, *positions, dim] if the stages are channel-last.
            mask: True where a position is real, [batch, *positions]. Default: all real.
            lengths: In place of a mask, how many first positions of each example are real, [batch].
            target_codes: In the shape of the codes: codes that `x` should have, for the loss "cross_entropy"; -1 where
                there is none. A stage's distances are those of what the target codes before it leave.

        Returns:
            `quantized` in the shape of `x`; codes of every stage; losses as means over the stages.

        Raises:
            ValueError: `x`, `mask`, `lengths` or `target_codes` is of another shape.
            RuntimeError: In eval mode, before the first training batch.
        """
        result, observations = self.observe(x, mask, lengths=lengths, target_codes=target_codes)
        if self.training:
            self.learner.take(observations, x.shape[0])
        return result

    def observe(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        target_codes: Tensor | None = None,
    ) -> tuple[Quantization, list[Observation]]:
        """`forward`, but for the learning: also returns what there is to learn from."""
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, self.channel_last, mask, lengths)
            target_rows = None if target_codes is None else self._target_rows(target_codes, positions)
            result = self._quantize_rows(self.project_in(rows), self._draw_depths(positions), target_rows)
            if target_rows is not None:
                result.losses.setdefault("cross_entropy", 0 * rows.sum())
            quantized = positions.vectors(self.project_out(result.output)).to(x.dtype)
            return Quantization(quantized, self._codes(result.codes, positions), result.losses), result.observations

    def check_rate_weight(self, rate_weight: float) -> None:
        """Refuse a weight of bits that no search over all stages can have; see `encode`.

        Raises:
            ValueError: As `encode`.
        """
        check_rate_weight(rate_weight, self._first_stages(None))

    def search(self, num_quantizers: int | None = None, *, rate_weight: float = 0.0) -> BeamSearch:
        """A search over the first stages as they are now, for `encode` to use again and again.

        Raises:
            ValueError: As `encode`; or the stages have several heads.
            RuntimeError: Before the first training batch.
        """
        return BeamSearch(self._first_stages(num_quantizers), rate_weight)

    def encode(
        self,
        x: Tensor,
        num_quantizers: int | None = None,
        *,
        beam_size: int = 1,
        rate_weight: float = 0.0,
        search: BeamSearch | None = None,
    ) -> Tensor:
        """Codes of the first stages; never changes state.

        Args:
            x: [batch, dim, *positions], or [batch, *positions, dim] if the stages are channel-last.
            num_quantizers: How many stages. Default: all.
            beam_size: How many sequences of codes are kept from stage to stage. 1 takes the nearest code vector of
                each residual (greedy); more find codes whose sum is nearer to `x`, at about that many times the cost.
            rate_weight: Weight of the bits that codes take once they are entropy-coded; see `codec.quantize.rate`. 0.1
                to 0.3 save bits for little loss.
            search: What `search` returned for as many stages and the same weight: saves its making, which takes longer
                than the codes of a few positions do. The nearest codes, with neither beam nor weight, take none.

        Returns:
            [batch, num_quantizers, *positions], or [batch, num_quantizers, heads, *positions]; int64.

        Raises:
            ValueError: There are not so many stages, `x` is of another shape, or `beam_size` is not positive or more
                than 1 with several heads, or `rate_weight` is out of range or not 0 with several heads or another
                measure than squared distance, or `search` is one of another number of stages or weight.
            RuntimeError: Before the first training batch.
        """
        stages = self._first_stages(num_quantizers)
        if beam_size < 1 or (beam_size > 1 and self.heads > 1):
            raise ValueError(f"beam_size must be positive, and 1 with several heads; got {beam_size}")
        if search and (search.num_quantizers, search.rate_weight) != (len(stages), rate_weight):
            raise ValueError(
                f"search must be of {len(stages)} stages and the weight {rate_weight}; "
                f"got {search.num_quantizers} and {search.rate_weight}"
            )
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, self.channel_last)
            residual = self.project_in(rows)
            if beam_size > 1 or rate_weight:
                search = search or BeamSearch(stages, rate_weight)
                return positions.codes(search(residual, beam_size))
            codes = []
            for stage in stages[:-1]:
                stage_codes, quantized = stage.approximate(residual)
                codes.append(stage_codes)
                residual = residual - quantized
            codes.append(stages[-1].encode_rows(residual))
            return self._codes(torch.stack(codes, dim=1), positions)

    def decode(self, codes: Tensor) -> Tensor:
        """Sum of the vectors of the codes of the first stages.

        Args:
            codes: [batch, any number of stages, *positions], or [batch, stages, heads, *positions].

        Returns:
            [batch, dim, *positions], or [batch, *positions, dim] if the stages are channel-last.

        Raises:
            ValueError: More stages than there are, or a code that is not in its codebook.
            RuntimeError: Before the first training batch.
        """
        stages = self._first_stages(codes.shape[1])
        if self.heads > 1 and codes.shape[2:3] != (self.heads,):
            raise ValueError(f"codes must have {self.heads} heads along axis 2; got shape {tuple(codes.shape)}")
        with torch.autocast(codes.device.type, enabled=False):
            shape = codes.shape[:1] + codes.shape[2 if self.heads == 1 else 3 :]
            positions = Positions(shape, self.channel_last)
            code_rows = self._code_rows(codes, positions)
            parts = [stage.decode_rows(code_rows[:, index]) for index, stage in enumerate(stages)]
            return positions.vectors(self.project_out(sum(parts[1:], start=parts[0])))

    def _quantize_rows(self, rows: Tensor, depths: Tensor | None, target_rows: Tensor | None) -> RowQuantization:
        # Two residuals of equal value. Through the first, the estimator's gradient arrives at the encoder once, not
        # once for each stage: what a stage passes on is subtracted from what the next one sees. In the second the
        # quantized vectors are constants, else no commitment loss but the first stage's would arrive at all.
        residual, commitment_residual, target_residual = rows, rows, rows
        quantized = torch.zeros_like(rows)
        codes, losses, observations = [], [], []
        for index, stage in enumerate(self._first_stages(self.num_quantizers)):
            targets = None if target_rows is None else Targets(target_residual, target_rows[:, index])
            result = stage.quantize_rows(residual, commitment_residual, targets)
            residual = residual - result.quantized
            commitment_residual = carry(commitment_residual, residual)
            if targets is not None and rows.shape[0] > 0:  # else the codebooks may wait for their first rows
                # Where no target is known, the first code stands in: nothing after it is known either, as a rule.
                target_residual = target_residual - stage.decode_rows(targets.codes.clamp_min(0)).detach()
            quantized += result.output if depths is None else result.output * (depths > index)
            # And not the whole result: the quantized vectors of all stages would stay in memory.
            codes.append(result.codes)
            losses.append(result.losses)
            observations.extend(result.observations)
        return RowQuantization(quantized, quantized, torch.stack(codes, dim=1), mean_losses(losses), observations)

    def _draw_depths(self, positions: Positions) -> Tensor | None:
        """How many stages each row keeps, [n, 1]; equal within an example. None: all."""
        if not self.training or self.dropout == 0:
            return None
        device = self.codebooks[0].vectors.device
        # Drawn for the examples of all ranks by all ranks, each of which takes its own. An example of a batch that is
        # learned from in parts has the draw that it would have in the whole.
        sizes = [torch.empty(size, 0, device=device) for size in (positions.shape[0], self.learner.examples_waiting)]
        per_rank, waiting = sum_over_ranks(own_row_counts(sizes))[0].long().tolist()
        batch, first = sum(per_rank), sum(per_rank[: rank()])
        numbers = torch.rand(sum(waiting) + batch, 2, generator=generator(int(self.codebooks[0].steps), 0))
        which, whether = numbers[sum(waiting) :].unbind(1)
        choices = -(-self.num_quantizers // self.dropout_multiple)
        drawn = ((which * choices).long() + 1) * self.dropout_multiple
        dropped = whether < self.dropout
        depths = torch.where(dropped, drawn, self.num_quantizers)[first : first + positions.shape[0]]
        return depths[positions.examples()].unsqueeze(1).to(device)

    def _target_rows(self, codes: Tensor, positions: Positions) -> Tensor:
        heads = () if self.heads == 1 else (self.heads,)
        expected = (positions.shape[0], self.num_quantizers, *heads, *positions.shape[1:])
        if codes.shape != expected:
            raise ValueError(f"target_codes must have shape {expected}; got {tuple(codes.shape)}")
        return self._code_rows(codes, positions)

    def _codes(self, codes: Tensor, positions: Positions) -> Tensor:
        """[n, stages, heads] -> codes as they are returned."""
        return positions.codes(codes.squeeze(2) if self.heads == 1 else codes)

    def _code_rows(self, codes: Tensor, positions: Positions) -> Tensor:
        """The inverse of `_codes`."""
        rows = positions.code_rows(codes)
        return rows.unsqueeze(2) if self.heads == 1 else rows

    def _first_stages(self, num_quantizers: int | None) -> list[VectorQuantize]:
        count = self.num_quantizers if num_quantizers is None else num_quantizers
        if not 1 <= count <= self.num_quantizers:
            raise ValueError(f"num_quantizers must be from 1 to {self.num_quantizers}; got {count}")
        return [cast(VectorQuantize, self.stages[index]) for index in self.order[:count]]
