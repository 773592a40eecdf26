"""Every collective of the project. Each does nothing in a single process.

Whether there are other ranks is asked when a function is called, never when a module is built, so that a module
built before the process group takes part all the same. Every rank must call the same functions in the same order.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


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


def gather_objects(item: Item) -> list[Item]:
    """What each rank holds, on all ranks, in the order of the ranks; for small things that are no tensors.

    Args:
        item: Anything that can be pickled. It goes from process to process of one program, not to disk.
    """
    if world_size() == 1:
        return [item]
    items: list[Item] = [item] * world_size()
    dist.all_gather_object(items, item)
    return items


def pick_own_rows(rows: Tensor, rows_per_rank: Tensor, indices: Tensor) -> Tensor:
    """Rows of the batch that all ranks hold together, by their index in it, as far as this rank holds them.

    `sum_over_ranks` completes them; several picks share its collective.

    Args:
        rows: This rank's rows, [rows, dim]. Ranks may hold different numbers of rows, or none.
        rows_per_rank: How many rows each rank holds, [world_size]; or of each part of the batch, [parts, world_size].
        indices: Which rows of the joined batch, equal on all ranks, [picked]. It has all ranks' first parts first, rank
            0's before the others'.

    Returns:
        The rows asked for, with zeros in place of those of other ranks, [picked, dim].
    """
    if world_size() == 1:
        return rows[indices]
    picked = rows.new_zeros(indices.shape[0], rows.shape[1])
    counts = rows_per_rank.view(-1, world_size()).long()
    starts = counts.flatten().cumsum(0).view_as(counts) - counts
    first = 0
    for start, count in zip(starts[:, rank()].tolist(), counts[:, rank()].tolist(), strict=True):
        mine = (indices >= start) & (indices < start + count)
        # Exactly one rank holds each row, so the sum is the row.
        picked[mine] = rows[indices[mine] - start + first]
        first += count
    return picked
