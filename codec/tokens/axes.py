"""The order of axes: codes are [batch, num_quantizers, frames], as EnCodec, DAC and Mimi have them.

Those of one recording, without the batch, are [num_quantizers, frames]. Everything in this project that takes or
returns codes keeps to that; `to_codes` is for those that come from elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import EinopsError, rearrange
from torch import Tensor


def to_codes(codes: Tensor | Sequence[Any], axes: str, num_quantizers: int | None = None) -> Tensor:
    """Put codes of another layout into the order of this project.

    | codes of | axes |
    | --- | --- |
    | EnCodec, DAC, Mimi | `b q t` |
    | SpeechTokenizer | `q b t` |
    | lists of frames, each a list of codes | `b t q`; of one recording `t q` |
    | one flat list, frame by frame | `(t q)`, with `num_quantizers` |
    | a codec of a single codebook | `b t` |

    Args:
        codes: Integers; a tensor, or nested lists of equal length.
        axes: What their axes are, as in einops: `b` batch, `q` quantizers, `t` frames, `1` an axis of length one. The
            batch and the quantizers may be absent: their axis is then of length one.
        num_quantizers: Needed where the shape does not tell.

    Returns:
        [batch, num_quantizers, frames], int64.

    Raises:
        ValueError: The codes are not integers, or `axes` names others than they have.
    """
    tensor = torch.as_tensor(codes)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"codes must be integers; got {tensor.dtype}")
    target = " ".join(letter if letter in axes else "1" for letter in "bqt")
    lengths = {} if num_quantizers is None else {"q": num_quantizers}
    try:
        return rearrange(tensor.long(), f"{axes} -> {target}", **lengths)
    except EinopsError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(
            f"axes must name those of the codes by b, q, t; got {axes!r} for shape {tuple(tensor.shape)}: {reason}"
        ) from None
