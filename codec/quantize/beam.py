"""Beam search over the stages of a residual stack."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from codec.quantize.distance import full_precision, smallest
from codec.quantize.rate import code_costs
from codec.quantize.vector import VectorQuantize

# Residuals that are compared with a codebook at once: enough for the full speed of a matrix product.
BLOCK_ROWS = 2048


class _Stage(NamedTuple):
    """What the search needs of a quantizer, made once for all blocks.

    Attributes:
        quantizer: For the stages that choose codes by another measure than what they leave.
        vectors: What each code takes from a residual, [k, dim].
        costs: What each code costs beside, [k].
        centre: The mean of the vectors, [dim].
        weights: With them, one product gives what each code leaves of a residual, and costs, [dim + 2, k]; see
            `_scores`.
    """

    quantizer: VectorQuantize
    vectors: Tensor
    costs: Tensor
    centre: Tensor
    weights: Tensor


class BeamSearch:
    """Finds codes whose vectors add up to nearly the rows, over all stages together.

    The code nearest to a residual is not always the one after which the next stages can do best. From stage to stage
    the best sequences of codes are kept, by the squared length of what they leave, and by what they cost. In float32
    whatever autocast says.

    Args:
        stages: Of one head each. What the search needs of them is computed here, once: it does not see what they
            learn later.
        rate_weight: Weight of bits; see `codec.quantize.rate`.

    Raises:
        ValueError: A stage has several heads; or `rate_weight` is out of range, or not 0 where a stage chooses by
            another measure than squared distance.
        RuntimeError: A stage has seen no training batch.
    """

    def __init__(self, stages: Sequence[VectorQuantize], rate_weight: float = 0.0):
        check_rate_weight(rate_weight, stages)
        if any(stage.heads > 1 for stage in stages):
            raise ValueError(f"heads must be 1 for a search over stages; got {stages[0].heads}")
        self.num_quantizers = len(stages)
        self.rate_weight = rate_weight
        with torch.no_grad(), torch.autocast(stages[0].codebooks[0].usage.device.type, enabled=False):
            self._stages = [_prepare(stage, rate_weight) for stage in stages]

    def __call__(self, rows: Tensor, beam_size: int) -> Tensor:
        """Search.

        Args:
            rows: [n, dim].
            beam_size: Sequences kept for each row.

        Returns:
            Codes, [n, stages].
        """
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            blocks = rows.split(max(1, BLOCK_ROWS // beam_size))
            return torch.cat([_search(self._stages, block, beam_size) for block in blocks])


def check_rate_weight(rate_weight: float, stages: Sequence[VectorQuantize]) -> None:
    """Refuse a weight of bits that is none, or that these stages have no use for.

    Raises:
        ValueError: See above.
    """
    if not 0 <= rate_weight < math.inf:
        raise ValueError(f"rate_weight must be 0 or more, and finite; got {rate_weight}")
    if rate_weight and any(stage.heads > 1 for stage in stages):
        raise ValueError(f"rate_weight must be 0 with several heads; got {rate_weight}")
    if rate_weight and not all(stage.least_squares for stage in stages):
        raise ValueError(
            "rate_weight must be 0 but for the distance euclidean and code vectors of the size of the rows; "
            f"got {rate_weight}"
        )


def _prepare(quantizer: VectorQuantize, rate_weight: float) -> _Stage:
    (codebook,) = quantizer.codebooks
    every_code = torch.arange(quantizer.codebook_size, device=codebook.usage.device)
    vectors = quantizer.look_up_rows(every_code.unsqueeze(1))
    centre = vectors.mean(0)
    costs = code_costs(vectors, codebook.usage, rate_weight) if rate_weight else vectors.new_zeros(len(vectors))
    centred = vectors - centre
    squares = centred.square().sum(1, keepdim=True)
    weights = torch.cat([-2 * centred, squares + costs.unsqueeze(1), torch.ones_like(squares)], dim=1)
    return _Stage(quantizer, vectors, costs, centre, weights.T)


def _search(stages: Sequence[_Stage], rows: Tensor, beam_size: int) -> Tensor:
    residuals = rows.unsqueeze(1)  # [n, beams, dim]
    spent = rows.new_zeros(len(rows), 1)  # [n, beams]
    steps = []
    for stage in stages:
        parents, codes = _continue(stage, residuals, spent, beam_size)
        residuals = _take(residuals, parents) - F.embedding(codes, stage.vectors)
        spent = spent.gather(1, parents) + stage.costs[codes]
        steps.append((parents, codes))
    best = torch.zeros_like(codes[:, :1])  # the first of the last beams; then where it came from
    sequence = []
    for parents, codes in reversed(steps):
        sequence.append(codes.gather(1, best))
        best = parents.gather(1, best)
    return torch.cat(sequence[::-1], dim=1)


def _continue(stage: _Stage, residuals: Tensor, spent: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
    """The best continuations of beams [n, beams, dim] that cost [n, beams]: of which beam, by which code; sorted.

    Returns:
        [n, beam_size] each.
    """
    beams, codebook_size = residuals.shape[1], stage.vectors.shape[0]
    if stage.quantizer.least_squares:
        score = _scores_operator if torch.compiler.is_compiling() else _scores
        scores = score(residuals, spent, stage.centre, stage.weights)
        best = smallest(scores, min(beam_size, beams * codebook_size))
        return best // codebook_size, best % codebook_size
    # The best sequences are among the best continuations of each: no beam has more than all of them.
    wanted = min(beam_size, codebook_size)
    codes = stage.quantizer.candidates(rearrange(residuals, "n b d -> (n b) d"), wanted).squeeze(2)
    left = residuals.unsqueeze(2) - F.embedding(codes.view(-1, beams, wanted), stage.vectors)
    lengths = (left.square().sum(3) + spent.unsqueeze(2)).flatten(1)
    best = lengths.topk(min(beam_size, beams * wanted), largest=False).indices
    return best // wanted, codes.view(lengths.shape).gather(1, best)


def _scores(residuals: Tensor, spent: Tensor, centre: Tensor, weights: Tensor) -> Tensor:
    """What each code leaves of each beam, squared, and costs: [n, beams, dim], [n, beams] -> [n, beams * k].

    |r - c|^2 + s + cost = [r, 1, |r|^2 + s] . [-2 c, |c|^2 + cost, 1], seen from the mean of the code vectors, so that
    latents far from the origin lose no digits. All in one product, since `addmm` takes 1.25 of the time of `mm` on a
    CPU.
    """
    count, beams, dim = residuals.shape
    factors = residuals.new_ones(count * beams, dim + 2)
    centred = torch.sub(residuals.view(-1, dim), centre, out=factors[:, :dim])
    factors[:, dim + 1] = torch.linalg.vector_norm(centred, dim=1).square_().add_(spent.flatten())
    with full_precision():
        return (factors @ weights).view(count, beams * weights.shape[1])


_scores_operator = torch.library.custom_op("rvq_codec::scores", _scores, mutates_args=())


@_scores_operator.register_fake
def _(residuals: Tensor, spent: Tensor, centre: Tensor, weights: Tensor) -> Tensor:
    return residuals.new_empty(residuals.shape[0], residuals.shape[1] * weights.shape[1])


def _take(residuals: Tensor, parents: Tensor) -> Tensor:
    """The residuals [n, beams, dim] of some beams [n, m], [n, m, dim]."""
    count, beams, dim = residuals.shape
    first = torch.arange(0, count * beams, beams, device=parents.device)
    rows = rearrange(residuals, "n b d -> (n b) d")
    return rows.index_select(0, (parents + first.unsqueeze(1)).flatten()).view(*parents.shape, dim)
