"""Every collective of the project. Each does nothing in a single process.

Whether there are other ranks is asked when a function is called, never when a module is built, so that a module
built before the process group takes part all the same. Every rank must call the same functions in the same order.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that work together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Add up tensors of equal shapes on all ranks, in one collective however many tensors there are.

    Args:
        tensors: On one device, not shorter than float32; they are not changed. All are added up in the type that they
            promote to.

    Returns:
        The sums, in the order and shapes of the arguments.
    """
    if world_size() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return tuple(part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True))


def pick_rows(rows: Tensor, rows_per_rank: Tensor, indices: Tensor) -> Tensor:
    """Rows of the batch that all ranks hold together, by their index in it; one collective.

    Args:
        rows: This rank's rows, [rows, dim]. Ranks may hold different numbers of rows, or none.
        rows_per_rank: How many rows each rank holds, [world_size].
        indices: Which rows of the joined batch (rank 0's first), equal on all ranks, [picked].

    Returns:
        The rows asked for, equal on all ranks, [picked, dim].
    """
    if world_size() == 1:
        return rows[indices]
    offset = int(rows_per_rank[: rank()].sum())
    local = indices - offset
    mine = (local >= 0) & (local < rows.shape[0])
    picked = rows.new_zeros(indices.shape[0], rows.shape[1])
    picked[mine] = rows[local[mine]]
    # Exactly one rank holds each row, so the sum is the row.
    return sum_over_ranks(picked)[0]
