"""Entropy tables learned from codes: which codes share a digit, which share a context, how often each digit follows.

For each stage, from counts of its codes beside those of each neighbour (see `EntropyTables`):

1. Codes are ordered so that those which come in like contexts share their high digit: the set is halved again and
   again, along the first principal component of how much likelier each context makes each code.
2. Codes of a neighbour after which a digit is distributed alike share a cluster: k-means under the Kullback-Leibler
   divergence (Dhillon, Mallela & Kumar, JMLR 2003), which keeps most of what the neighbour tells about the digit.
3. Each combination of clusters has a distribution: its counts, and a prior for what they are too few to say. The prior
   multiplies what each neighbour alone says, to a power below 1, since they say much the same.

A digit is counted in cells [groups, base]: the high digit in one group, the low digit in one for each high digit.

The same codes learn the same tables whatever the number of threads, and on other machines most likely: sums and
logarithms differ there in their last digits, so that what decides (scores, projections, weights) is rounded before
it is compared, and a principal component has a sign of its own. What still can differ is a score that lies on the edge
of rounding, or a component that is not the only one of its variance. The fingerprint tells such tables apart.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.entropy import TOTAL_WEIGHT, EntropyTables, digit_base

MAX_CODEBOOK_SIZE = 4096
# What an entry of `EntropyTables.contexts` can point to.
MAX_ROWS = 1 << 16

# Clusters of the neighbours (frame before, first stage, stage before) for the high and for the low digit, by stage; the
# last line is for all that follow. The first stage has one neighbour; the second two, as its stage before is the first.
# Chosen, like the numbers below, on speakers that were kept out: more clusters gain little, for more bytes of tables.
CLUSTERS = (
    ((512, 1, 1), (128, 1, 1)),
    ((16, 64, 1), (4, 32, 1)),
    ((8, 16, 8), (2, 8, 4)),
    ((8, 8, 8), (2, 4, 4)),
    ((8, 8, 8), (2, 2, 2)),
)
ORDER_CLUSTERS = 16
ITERATIONS = 12
# As many counts as the prior stands for.
CLUSTER_PRIOR = 100
ROW_PRIOR = 200
PRIOR_POWER = 0.7
# Decimals that decide, far above where float64 is off: of scores (up to about 1e7), projections and weights.
DECIMALS = 6


class _Digit(NamedTuple):
    """Tables of a digit of a stage: contexts [3, codebook_size + 1] that start at row 0, and weights [rows, base]."""

    contexts: NDArray[np.int64]
    weights: NDArray[np.int64]


def learn_tables(
    sequences: Iterable[NDArray[np.integer]], codebook_size: int, frames_per_chunk: int | None = None
) -> EntropyTables:
    """Learn tables from codes of a model.

    Args:
        sequences: Each of frames in order, [num_quantizers, frames]. Of a small integer type they take less memory.
        codebook_size: Codes of each stage, 2 to 4096.
        frames_per_chunk: Of files to come: the first frame of a chunk has no frame before it. Default: a sequence is a
            chunk.

    Raises:
        ValueError: There is no code, stages differ in number or are too many, or a number is out of range.
    """
    check_size(1, codebook_size)
    codes, first = _join(list(sequences), codebook_size, frames_per_chunk)
    check_size(len(codes), codebook_size)
    none = np.full(codes.shape[1], codebook_size)
    ranks, contexts, weights, num_rows = [], [], [], 0
    for stage in range(len(codes)):
        targets = codes[stage].astype(np.int64)
        neighbours = [np.where(first, codebook_size, np.roll(targets, 1)), none, none]
        if stage:
            neighbours[1:] = codes[0].astype(np.int64), codes[stage - 1].astype(np.int64)
        rank = _rank_codes(neighbours, targets, codebook_size)
        ranks.append(rank)
        for digit in _learn_digits(neighbours, rank[targets], codebook_size, stage):
            digit.contexts[0] += num_rows
            num_rows += len(digit.weights)
            contexts.append(digit.contexts)
            weights.append(digit.weights)
    return EntropyTables(
        ranks=np.stack(ranks).astype(np.uint16),
        contexts=np.stack(contexts).reshape(len(codes), 2, 3, -1).astype(np.uint16),
        weights=np.concatenate(weights).astype(np.uint16),
    )


def check_size(num_quantizers: int, codebook_size: int) -> None:
    """Check that tables can be learned for so many stages and codes.

    Raises:
        ValueError: There are too many, or less than two codes.
    """
    if not 2 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise ValueError(f"codebook_size must be 2 to {MAX_CODEBOOK_SIZE}; got {codebook_size}")
    base = digit_base(codebook_size)
    clusters = [_clusters(stage) for stage in range(num_quantizers)]
    rows = sum(prod(high) + prod(low) * base for high, low in clusters)
    if rows > MAX_ROWS:
        raise ValueError(f"tables must have at most {MAX_ROWS} rows; got {rows}: too many stages or codes")


def _clusters(stage: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return CLUSTERS[min(stage, len(CLUSTERS) - 1)]


def _join(
    sequences: Sequence[NDArray[np.integer]], codebook_size: int, frames_per_chunk: int | None
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """All frames in a row, [num_quantizers, frames], and which are the first of a chunk, [frames]."""
    stages = sorted({len(sequence) for sequence in sequences})
    if len(stages) != 1:
        raise ValueError(f"sequences must all have the same number of stages; got {stages or 'no sequence'}")
    sizes = [sequence.shape[1] for sequence in sequences]
    codes = np.empty((stages[0], sum(sizes)), dtype=np.uint16)
    if not codes.size:
        raise ValueError("sequences must have a frame at least; got none")
    first = np.zeros(codes.shape[1], dtype=bool)
    start = 0
    for sequence, size in zip(sequences, sizes, strict=True):
        if size and not (sequence.min() >= 0 and sequence.max() < codebook_size):
            raise ValueError(f"codes must be 0 to {codebook_size - 1}; got {sequence.min()} to {sequence.max()}")
        codes[:, start : start + size] = sequence
        first[start : start + size : frames_per_chunk or max(size, 1)] = True
        start += size
    return codes, first


def _rank_codes(neighbours: Sequence[NDArray[np.int64]], targets: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Places of the codes in an order where those that come in like contexts are close to each other, [size]."""
    profiles = []
    marginal = _marginal(_count(np.zeros_like(targets), targets, (1, 1, size), size))
    for neighbour in neighbours:
        counts = _count(neighbour, targets, (size + 1, 1, size), size)
        clustered = _sum_by(_cluster(counts, ORDER_CLUSTERS), counts, ORDER_CLUSTERS)
        ratio = np.log(_smooth(clustered, marginal, ROW_PRIOR) / marginal)[:, 0]
        share = clustered.sum((1, 2)) / len(targets)
        profiles.append(ratio * np.sqrt(share)[:, None])
    order = _halve(np.arange(size), np.concatenate(profiles).T, marginal[0])
    return np.argsort(order)


def _halve(codes: NDArray[np.int64], profiles: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order codes by their profiles [codebook_size, features]: halves first, then within each half."""
    if len(codes) < 2:
        return codes
    centered = profiles[codes] - np.average(profiles[codes], axis=0, weights=shares[codes])
    axis = np.linalg.eigh((centered * shares[codes, None]).T @ centered).eigenvectors[:, -1]
    # Either sign is an eigenvector's: its largest part is to be positive.
    axis *= np.sign(axis[np.abs(axis).round(DECIMALS).argmax()])
    codes = codes[np.argsort((centered @ axis).round(DECIMALS), kind="stable")]
    middle = len(codes) // 2
    return np.concatenate([_halve(half, profiles, shares) for half in (codes[:middle], codes[middle:])])


def _learn_digits(
    neighbours: Sequence[NDArray[np.int64]], ranks: NDArray[np.int64], codebook_size: int, stage: int
) -> list[_Digit]:
    base = digit_base(codebook_size)
    high, low = _clusters(stage)
    # A rank is the cell of its low digit in the group of its high digit.
    return [
        _learn_digit(neighbours, ranks // base, (codebook_size + 1, 1, base), high),
        _learn_digit(neighbours, ranks, (codebook_size + 1, base, base), low),
    ]


def _learn_digit(
    neighbours: Sequence[NDArray[np.int64]],
    cells: NDArray[np.int64],
    shape: tuple[int, int, int],
    clusters: tuple[int, int, int],
) -> _Digit:
    """Tables of a digit.

    Args:
        neighbours: Codes of each, [frames].
        cells: Where the digits count, [frames].
        shape: codebook_size + 1, groups, base.
        clusters: How many for each neighbour.
    """
    _, groups, base = shape
    counts = [_count(neighbour, cells, shape, shape[0] - 1) for neighbour in neighbours]
    labels = [_cluster(count, size) for count, size in zip(counts, clusters, strict=True)]
    alone = [_sum_by(*labelled) for labelled in zip(labels, counts, clusters, strict=True)]
    context = np.ravel_multi_index([label[code] for label, code in zip(labels, neighbours, strict=True)], clusters)
    joint = _count(context, cells, (prod(clusters), groups, base), shape[0] - 1)
    weights = _to_weights(_smooth(joint, _prior(alone), ROW_PRIOR).reshape(-1, base))
    strides = groups * np.array([clusters[1] * clusters[2], clusters[2], 1])
    return _Digit(np.stack(labels) * strides[:, None], weights)


def _prior(alone: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What the neighbours [clusters, groups, base] say together, if each says it alone, [contexts, groups, base]."""
    marginal = _marginal(alone[0])
    logs = np.log(marginal)[None]
    for counts in alone:
        ratio = PRIOR_POWER * np.log(_smooth(counts, marginal, CLUSTER_PRIOR) / marginal)
        logs = (logs[:, None] + ratio).reshape(-1, *marginal.shape)
    prior = np.exp(logs)
    return prior / prior.sum(-1, keepdims=True)


def _cluster(counts: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Cluster of each code of a neighbour, [codes], by its counts, [codes, groups, base]."""
    labels = np.zeros(len(counts), dtype=np.int64)
    if size == 1:
        return labels
    marginal = _marginal(counts)
    flat = counts.reshape(len(counts), -1)

    def log_likelihoods(clusters: NDArray[np.float64]) -> NDArray[np.float64]:
        logs = np.log(_smooth(clusters, marginal, CLUSTER_PRIOR / len(marginal)))
        return (flat @ logs.reshape(len(clusters), -1).T).round(DECIMALS)

    # Each cluster starts from the code that the ones before it serve worst.
    own = (flat * np.log(_smooth(counts, marginal, CLUSTER_PRIOR / len(marginal))).reshape(flat.shape)).sum(1)
    own = own.round(DECIMALS)
    seeds = [int(flat.sum(1).round(DECIMALS).argmax())]
    best = log_likelihoods(counts[seeds])[:, 0]
    while len(seeds) < size:
        seeds.append(int((own - best).round(DECIMALS).argmax()))
        best = np.maximum(best, log_likelihoods(counts[seeds[-1:]])[:, 0])
    clusters = counts[seeds]
    for _ in range(ITERATIONS):
        labels = log_likelihoods(clusters).argmax(1)
        clusters = _sum_by(labels, counts, size)
    return labels


def _count(
    contexts: NDArray[np.int64], cells: NDArray[np.int64], shape: tuple[int, int, int], codebook_size: int
) -> NDArray[np.float64]:
    """How often each cell comes in each context, [contexts, groups, base]."""
    counts = np.bincount(contexts * (shape[1] * shape[2]) + cells, minlength=prod(shape)).reshape(shape)
    # Half a count more for each code, which shares a cell or has one of its own; in each context as much as it is seen.
    share = counts.sum((1, 2), keepdims=True) / len(cells)
    return np.asarray(counts + share * (codebook_size / (2 * shape[1] * shape[2])), dtype=np.float64)


def _sum_by(labels: NDArray[np.int64], counts: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Counts of clusters, [size, groups, base]."""
    # A product is many times quicker than np.add.at.
    members = (np.arange(size)[:, None] == labels).astype(counts.dtype)
    return (members @ counts.reshape(len(counts), -1)).reshape(size, *counts.shape[1:])


def _marginal(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distribution of each group over all contexts, [groups, base]."""
    total = counts.sum(0)
    return total / total.sum(-1, keepdims=True)


def _smooth(counts: NDArray[np.float64], prior: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Distributions by counts, and by a prior that stands for `strength` more."""
    return (counts + strength * prior) / (counts.sum(-1, keepdims=True) + strength)


def _to_weights(distributions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positive integers in proportion, with a sum of `TOTAL_WEIGHT` in each row, [rows, base]."""
    base = distributions.shape[1]
    exact = distributions * (TOTAL_WEIGHT - base) / distributions.sum(1, keepdims=True)
    exact = exact.round(DECIMALS)
    weights = np.floor(exact).astype(np.int64)
    missing = TOTAL_WEIGHT - base - weights.sum(1, keepdims=True)
    # What is missing goes to those that lost most.
    place = np.argsort(np.argsort(weights - exact, axis=1, kind="stable"), axis=1)
    return weights + 1 + (place < missing)
