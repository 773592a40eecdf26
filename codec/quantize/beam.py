"""Beam search over the stages of a residual stack."""

from collections.abc import Sequence

import torch
from torch import Tensor

from codec.quantize.vector import VectorQuantize

# Rows that are searched at once: with all their beams and candidates, they stay in the cache.
BLOCK_ROWS = 1024


@torch.no_grad()
def beam_search(stages: Sequence[VectorQuantize], rows: Tensor, beam_size: int) -> Tensor:
    """Codes whose vectors add up to nearly the rows, over all stages together.

    The code nearest to a residual is not always the one after which the next stages can do best. From stage to stage
    the `beam_size` best sequences of codes are kept, by the length of what they leave.

    Args:
        stages: Of one head each.
        rows: [n, dim].
        beam_size: Sequences kept for each row.

    Returns:
        Codes, [n, stages].
    """
    blocks = rows.split(max(1, BLOCK_ROWS // beam_size))
    return torch.cat([_search(stages, block, beam_size) for block in blocks])


def _search(stages: Sequence[VectorQuantize], rows: Tensor, beam_size: int) -> Tensor:
    count, dim = rows.shape
    residuals = rows.unsqueeze(1)  # [n, beams, dim]
    sequences = torch.empty(count, 1, 0, dtype=torch.int64, device=rows.device)
    for stage in stages:
        beams = residuals.shape[1]
        # The best sequences are among the best continuations of each: no beam has more than all of them.
        wanted = min(beam_size, stage.codebook_size)
        codes = stage.candidates(residuals.reshape(-1, dim), wanted).view(count, beams * wanted)
        vectors = stage.look_up_rows(codes.view(-1, 1)).view(count, beams, wanted, dim)
        left = (residuals.unsqueeze(2) - vectors).view(count, beams * wanted, dim)
        best = left.square().sum(2).topk(min(beam_size, beams * wanted), largest=False).indices
        residuals = left.gather(1, best.unsqueeze(2).expand(-1, -1, dim))
        before = sequences.gather(1, (best // wanted).unsqueeze(2).expand(-1, -1, sequences.shape[2]))
        sequences = torch.cat([before, codes.gather(1, best).unsqueeze(2)], dim=2)
    return sequences[:, 0]  # topk sorts: the best comes first
