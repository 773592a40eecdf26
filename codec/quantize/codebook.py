"""The state of a quantizer: code vectors and how often each is used."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.distributed import sum_over_ranks
from codec.quantize.affine import Affine, AffineMap
from codec.quantize.distance import Distance, direction
from codec.quantize.initialize import Initializer, JoinedRows, count_and_sum, own_row_counts
from codec.quantize.optimizer import CodebookOptimizer
from codec.quantize.update import Update


class Codebook(nn.Module):
    """Code vectors that start from the first batch, learn from each, and are replaced where nobody uses them.

    All state is in the state dict. Ranks hold equal codebooks, those of one rank on the joined batch: every decision
    is made on sums over the ranks, and random choices are seeded by the number of steps.

    Args:
        codebook_size: Number of codes.
        dim: Size of a code vector.
        distance: By which rows choose their codes.
        initializer: Where code vectors start.
        update: How they learn.
        affine: Whether, and how fast, they follow the moments of the data.

    Attributes:
        vectors: What is learned and stored, [codebook_size, dim]; `code_vectors` is what is used.
        usage: Moving average of each code's share of the rows, [codebook_size].
        initialized: Whether the code vectors have been placed, a scalar.
        steps: Batches learned from, a scalar.
        number: Tells codebooks of one quantizer apart, whose random choices would else be the same.
    """

    vectors: Tensor
    usage: Tensor
    initialized: Tensor
    steps: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        distance: Distance,
        initializer: Initializer,
        update: Update,
        affine: Affine | None = None,
    ):
        super().__init__()
        if affine is not None and update.fixed:
            raise ValueError("affine must be None with a frozen update: it moves the code vectors")
        self.codebook_size = codebook_size
        self.distance = distance
        self.initializer = initializer
        self.update = update
        self.number = 0
        vectors = torch.zeros(codebook_size, dim)
        if update.by_gradient:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        self.register_buffer("usage", torch.full((codebook_size,), 1 / codebook_size))
        self.register_buffer("initialized", torch.tensor(False))
        self.register_buffer("steps", torch.tensor(0))
        self.affine = None if affine is None else AffineMap(affine, dim)
        self.optimizer = None if update.optimizer is None else CodebookOptimizer(update.optimizer, codebook_size, dim)

    def code_vectors(self) -> Tensor:
        """What rows are compared with and replaced by, [codebook_size, dim].

        With gradient where the code vectors are a parameter. May share memory with `vectors`.

        Raises:
            RuntimeError: They have not been placed yet.
        """
        check(
            self.initialized,
            "the codebook must be initialized before it encodes or decodes; train on a batch or load weights",
        )
        return self._place(self.vectors)

    def snapshot(self) -> Tensor:
        """`code_vectors` as they are now: later steps change neither them nor what their backward pass needs."""
        return self._place(self.vectors.clone())

    @torch.no_grad()
    def initialize(self, rows: Tensor) -> None:
        """Place the code vectors, on the first batch that has rows; later calls do nothing.

        Args:
            rows: This rank's rows, [rows, dim].
        """
        if self.initialized:
            return
        batch = JoinedRows.join(rows)
        if batch.total == 0:
            return
        self.vectors.copy_(self.initializer(batch, self.codebook_size, self.distance, self._generator()))
        if self.affine is not None:
            mean = sum_over_ranks(rows.sum(0))[0] / batch.total
            variance = sum_over_ranks((rows - mean).square().sum(0))[0] / batch.total
            self.affine.start(mean, variance, self.vectors)
        self.initialized.fill_(True)

    def count(self, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `learn` needs to know of this rank's rows and their codes, in sums that add up over ranks."""
        counts, sums = count_and_sum(rows, codes, self.codebook_size)
        # Around a mean near theirs, equal on all ranks: around 0, little may be left of their difference to the mean.
        squares = rows.new_zeros(0) if self.affine is None else (rows - self.affine.batch_mean).square().sum(0)
        return counts, sums, squares

    def learn(self, total: Tensor, counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
        """Take a step.

        Args:
            total: Rows of all ranks, a scalar.
            counts, sums, squares: The sums over all ranks of what `count` gave.

        Returns:
            Codes that need to be replaced, [dead].
        """
        # Every rank's batch is padding; or a value is not finite, which a moving average would never get rid of.
        if total == 0 or not sums.isfinite().all():
            return counts.new_zeros(0, dtype=torch.int64)
        share, sums = counts / total, sums / total
        stored_sums = sums if self.affine is None else self.affine.inverse_sums(share, sums)
        self.vectors.copy_(self.update.move(self.vectors, self.usage, share, stored_sums))
        if self.optimizer is not None:
            self.optimizer.step(self.vectors, self._codebook_gradient(share, sums))
        if self.affine is not None:
            self._follow(sums.sum(0), squares / total)
        self.usage.copy_(torch.lerp(share, self.usage, self.update.decay))
        self.steps.add_(1)
        dead = (self.usage < self.update.dead_ratio / self.codebook_size).nonzero().squeeze(1)
        # No row serves two codes: they would tie, and one of them be dead again.
        return dead[: int(total)]

    def draw(self, rows: Tensor, rows_per_rank: Tensor, count: int) -> Tensor:
        """This rank's part of random rows of all ranks, as `JoinedRows.draw_own` gives it."""
        return JoinedRows(rows, rows_per_rank.long()).draw_own(count, self._generator())

    def replace(self, codes: Tensor, rows: Tensor) -> None:
        """Put rows [codes, dim] in the place of code vectors, as if each had been used as in uniform use."""
        self.vectors[codes] = rows if self.affine is None else self.affine.inverse(rows)
        self.usage[codes] = 1 / self.codebook_size
        if self.optimizer is not None:
            self.optimizer.reset(codes)

    def _place(self, vectors: Tensor) -> Tensor:
        placed = vectors if self.affine is None else self.affine(vectors)
        return direction(placed) if self.distance.unit else placed

    def _follow(self, mean: Tensor, squares: Tensor) -> None:
        """Move the affine map on, by the mean of the rows and their mean square around the mean before."""
        assert self.affine is not None
        variance = (squares - (mean - self.affine.batch_mean).square()).clamp_min(0)
        self.affine.follow(mean, variance, self.vectors)
        # Vectors that an optimizer moves hold still in the direction that the map takes out.
        if not self.update.by_gradient and self.optimizer is None:
            self.vectors.copy_(self.affine.normalize(self.vectors))

    def _codebook_gradient(self, share: Tensor, sums: Tensor) -> Tensor:
        """Of the codebook loss over the rows of all ranks, the mean of |q - x|^2 / dim, with regard to `vectors`."""
        with torch.enable_grad():
            vectors = self.vectors.detach().requires_grad_()
            placed = self._place(vectors)
        at_placed = 2 / sums.shape[1] * (share.unsqueeze(1) * placed.detach() - sums)
        return torch.autograd.grad(placed, vectors, at_placed)[0]

    def _generator(self) -> torch.Generator:
        return generator(int(self.steps), self.number)


class Observation(NamedTuple):
    """Which rows of this rank chose which codes: rows [n, dim] without gradient, codes [n]."""

    codebook: Codebook
    rows: Tensor
    codes: Tensor


@torch.no_grad()
def learn(observations: Sequence[Observation]) -> None:
    """Let codebooks learn: one collective for all of them, and one more on a step that replaces dead codes.

    Args:
        observations: Of any codebooks, the same ones in the same order on all ranks. Several of one codebook are
            taken together, as one batch.
    """
    if not observations:  # every quantizer is in eval mode
        return
    batches: dict[Codebook, list[Observation]] = {}
    for observation in observations:
        batches.setdefault(observation.codebook, []).append(observation)
    rows = {codebook: _join([part.rows for part in parts]) for codebook, parts in batches.items()}
    own: list[Tensor] = []
    for codebook, parts in batches.items():
        own.append(own_row_counts([part.rows for part in parts]))
        own.extend(codebook.count(rows[codebook], _join([part.codes for part in parts])))
    summed = iter(sum_over_ranks(*own))
    replaced: list[tuple[Codebook, Tensor]] = []
    draws: list[Tensor] = []
    for codebook in batches:
        rows_per_rank, counts, sums, squares = (next(summed) for _ in range(4))
        dead = codebook.learn(rows_per_rank.sum(), counts, sums, squares)
        if dead.numel() > 0:
            replaced.append((codebook, dead))
            draws.append(codebook.draw(rows[codebook], rows_per_rank, dead.numel()))
    if draws:
        for (codebook, dead), drawn in zip(replaced, sum_over_ranks(*draws), strict=True):
            codebook.replace(dead, drawn)


class Learner:
    """Lets codebooks learn from what was observed: at once, or when it is told to.

    Args:
        manual: Whether it waits for `apply`.

    Attributes:
        examples_waiting: Examples of this rank since the last `apply`.
    """

    def __init__(self, manual: bool):
        self.manual = manual
        self.examples_waiting = 0
        self._waiting: list[Sequence[Observation]] = []

    def take(self, observations: Sequence[Observation], examples: int) -> None:
        """Take in the observations of a batch of so many examples."""
        if self.manual:
            self._waiting.append(observations)
            self.examples_waiting += examples
        else:
            learn(observations)

    def apply(self) -> None:
        """Learn from all batches since the last call as from one.

        Raises:
            RuntimeError: There was none.
        """
        if not self._waiting:
            raise RuntimeError("a batch must be quantized in training mode, with manual=True, before it is applied")
        # As parts, not joined: the rows of all ranks then have the order that they have in one large batch.
        learn([each for same in zip(*self._waiting, strict=True) for each in same])
        self.discard()

    def discard(self) -> None:
        """Forget the batches since the last `apply`."""
        self._waiting = []
        self.examples_waiting = 0


def number_codebooks(codebooks: Sequence[Codebook]) -> None:
    """Let codebooks of one quantizer make random choices of their own."""
    for number, codebook in enumerate(codebooks):
        codebook.number = number


def generator(step: int, number: int) -> torch.Generator:
    """A generator for one step of one of several draws."""
    # torch seeds it by 32 bits alone; the factor spreads small numbers over them.
    return torch.Generator().manual_seed((step + number * 2654435761) % 2**32)


def check(condition: Tensor, message: str) -> None:
    """Raise a RuntimeError unless a scalar is true; in compiled code too, where it breaks no graph."""
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not condition:
        raise RuntimeError(message)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
