"""Vector quantization with one codebook, or with one a head."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from codec.choose import choose
from codec.quantize.affine import Affine
from codec.quantize.codebook import Codebook, Learner, Observation, check, number_codebooks
from codec.quantize.distance import DISTANCES, Distance, direction, nearest, nearest_few
from codec.quantize.estimator import ESTIMATORS, Estimator
from codec.quantize.gradient import carry
from codec.quantize.initialize import INITIALIZERS, Initializer
from codec.quantize.loss import COMMITMENTS, Regularizer, cross_entropy, mean_square
from codec.quantize.result import Quantization, RowQuantization, Targets, mean_losses
from codec.quantize.rows import Positions, keeping_type, to_rows
from codec.quantize.update import EMA, Update


class VectorQuantize(nn.Module):
    """Replace each vector by its nearest code vector (van den Oord et al. 2017, arXiv 1711.00937).

    The maths runs in float32, whatever autocast says, and weights stay in float32 when a model is cast to another type;
    `quantized` is of the type of the input, and `decode` gives float32. A padded position takes part in nothing: no
    loss, no learning, no initialization. Where an option names a piece, one of your own does as well.

    Args:
        dim: Size of the vectors.
        codebook_size: Number of codes.
        codebook_dim: Size of the code vectors. Default: `dim / heads`. If `heads` of them do not make `dim`, vectors
            are projected there and back (factorized codes, arXiv 2110.04627): 8 to 32 keeps large codebooks in use.
        heads: Parts that each vector is cut into, each with a code of its own: many combinations of few codes.
        separate_codebooks: Whether each head has its own codebook, rather than one for all: for parts that differ.
        distance: "euclidean", "cosine" or "unit_cosine"; see `codec.quantize.distance`.
        estimator: "straight_through", "rotation", "gumbel_softmax", "gumbel_softmax_hard", "stochastic" or "reinmax";
            see `codec.quantize.estimator`.
        initializer: "kmeans" (or `KMeans(...)`), "samples" or "uniform"; see `codec.quantize.initialize`. It runs on
            the first training batch.
        update: `EMA(...)`, `Gradient(...)`, `InPlace(...)` or `Frozen()`; see `codec.quantize.update`.
        affine: `Affine(...)` for code vectors that follow the moments of the data; see `codec.quantize.affine`.
        commitment: "mse", or "cross_entropy" over distances; see `codec.quantize.loss`.
        regularizers: `Orthogonal(...)`, `Diversity(...)`; see `codec.quantize.loss`.
        temperature: Of estimators that draw codes, where a schedule starts; `set_temperature` changes it. Default: 1.
        manual: Whether the codebook learns when `apply_update` is called, from all batches since the last call as from
            one, rather than inside `forward`: for gradient accumulation. The first batch alone initializes; batches
            that wait are not in the state dict, so save it after `apply_update`.
        channel_last: Whether vectors lie along the last axis, [batch, *positions, dim], rather than the second,
            [batch, dim, *positions].

    Raises:
        ValueError: An unknown name, a size that is not positive, or options that make no sense together.
    """

    temperature: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook_dim: int | None = None,
        heads: int = 1,
        separate_codebooks: bool = False,
        distance: str | Distance = "euclidean",
        estimator: str | Estimator = "straight_through",
        initializer: str | Initializer = "kmeans",
        update: Update | None = None,
        affine: Affine | None = None,
        commitment: str = "mse",
        regularizers: Sequence[Regularizer] = (),
        temperature: float | None = None,
        manual: bool = False,
        channel_last: bool = False,
    ):
        super().__init__()
        if min(dim, codebook_size, heads, 1 if codebook_dim is None else codebook_dim) < 1:
            raise ValueError(
                f"dim, codebook_size, codebook_dim and heads must be positive; "
                f"got {dim}, {codebook_size}, {codebook_dim}, {heads}"
            )
        if codebook_dim is None:
            if dim % heads:
                raise ValueError(f"dim must be a multiple of heads {heads}, or codebook_dim be given; got {dim}")
            codebook_dim = dim // heads
        self.dim = dim
        self.codebook_size = codebook_size
        self.heads = heads
        self.channel_last = channel_last
        self.distance = choose(DISTANCES, distance, "distance") if isinstance(distance, str) else distance
        self.estimator = choose(ESTIMATORS, estimator, "estimator") if isinstance(estimator, str) else estimator
        self.commitment = choose(COMMITMENTS, commitment, "commitment")
        self.regularizers = tuple(regularizers)
        self.update = update or EMA()
        self._refuse_nonsense(separate_codebooks, temperature)
        self.learner = Learner(manual)
        placed = choose(INITIALIZERS, initializer, "initializer") if isinstance(initializer, str) else initializer
        codebooks = [
            Codebook(codebook_size, codebook_dim, self.distance, placed, self.update, affine)
            for _ in range(heads if separate_codebooks else 1)
        ]
        # One codebook keeps the shorter name in the state dict.
        if separate_codebooks:
            self.head_codebooks = nn.ModuleList(codebooks)
            number_codebooks(codebooks)
        else:
            self.codebook = codebooks[0]
        self.separate_codebooks = separate_codebooks
        self.register_buffer(
            "temperature", torch.tensor(1.0 if temperature is None else float(temperature)), self.estimator.tempered
        )
        projected = heads * codebook_dim != dim
        self.project_in = nn.Linear(dim, heads * codebook_dim) if projected else nn.Identity()
        self.project_out = nn.Linear(heads * codebook_dim, dim) if projected else nn.Identity()

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebook, or those of the heads."""
        return cast(list[Codebook], list(self.head_codebooks)) if self.separate_codebooks else [self.codebook]

    @property
    def least_squares(self) -> bool:
        """Whether the code of a vector is the one that leaves the least of it."""
        projected = not isinstance(self.project_in, nn.Identity)
        return self.distance.squared and not self.distance.unit and not projected

    def set_temperature(self, temperature: float) -> None:
        """Change the temperature of estimators that draw codes, as a schedule does; others have no use for it.

        Raises:
            ValueError: It is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.temperature.fill_(temperature)

    def apply_update(self) -> None:
        """With `manual`, let the codebook learn from all batches since the last call; every rank must call.

        Raises:
            RuntimeError: There was no batch.
        """
        self.learner.apply()

    def discard_update(self) -> None:
        """With `manual`, forget all batches since the last call, as where a step of training is skipped."""
        self.learner.discard()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VectorQuantize":
        return super()._apply(keeping_type(fn), recurse)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        target_codes: Tensor | None = None,
    ) -> Quantization:
        """Quantize; in training mode, learn as well.

        Args:
            x: [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.
            mask: True where a position is real and False where it is padding, [batch, *positions]. Default: all real.
            lengths: In place of a mask, how many first positions of each example are real, [batch].
            target_codes: In the shape of the codes: codes that `x` should have, for the loss "cross_entropy"; -1 where
                there is none. Code vectors are constants to it.

        Raises:
            ValueError: `x`, `mask` or `lengths` is of another shape.
            RuntimeError: In eval mode, before the first training batch.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, self.channel_last, mask, lengths)
            targets = None if target_codes is None else Targets(rows, self._code_rows(target_codes, positions))
            result = self.quantize_rows(rows, rows, targets)
            if targets is not None:
                result.losses.setdefault("cross_entropy", 0 * rows.sum())
            if self.training:
                self.learner.take(result.observations, positions.shape[0])
            # Memory of its own, which the caller may change.
            quantized = positions.vectors(result.output.clone()).to(x.dtype)
            return Quantization(quantized, self._codes(result.codes, positions), result.losses)

    def encode(self, x: Tensor) -> Tensor:
        """Codes of the nearest code vectors; never changes state.

        Args:
            x: [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.

        Returns:
            [batch, *positions], or [batch, heads, *positions] with several heads; int64.

        Raises:
            ValueError: `x` is of another shape.
            RuntimeError: Before the first training batch.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, self.channel_last)
            return self._codes(self.encode_rows(rows), positions)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of codes: what `forward` returned with them in eval mode.

        Args:
            codes: [batch, *positions], or [batch, heads, *positions] with several heads; int64.

        Returns:
            [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.

        Raises:
            ValueError: A code is not in the codebook.
            RuntimeError: Before the first training batch.
        """
        with torch.autocast(codes.device.type, enabled=False):
            shape = codes.shape if self.heads == 1 else codes.shape[:1] + codes.shape[2:]
            positions = Positions(shape, self.channel_last)
            return positions.vectors(self.decode_rows(self._code_rows(codes, positions)))

    def quantize_rows(self, rows: Tensor, commitment_rows: Tensor, targets: Targets | None = None) -> RowQuantization:
        """`forward` on rows, but for the learning.

        Args:
            rows: [n, dim], float32; the gradient of `quantized` goes there.
            commitment_rows: The same values; the gradient of the losses goes there.
            targets: For the loss "cross_entropy".
        """
        raw = self._lanes(rows)
        lanes = loss_lanes = self._on_sphere(raw)
        if commitment_rows is not rows:
            loss_lanes = self._on_sphere(self._lanes(commitment_rows))
            # Of equal values one copy is enough.
            loss_lanes = [carry(*pair) for pair in zip(loss_lanes, lanes, strict=True)]
        parts = [self._quantize_lane(*each) for each in zip(self.codebooks, raw, lanes, loss_lanes, strict=True)]
        losses = mean_losses([part.losses for part in parts])
        if targets is not None:
            losses.update(self._target_loss(targets))
        quantized = self._join([part.quantized for part in parts])
        return RowQuantization(
            quantized,
            self._join([part.output for part in parts]) if self.update.synchronous else quantized,
            self._join_codes([part.codes for part in parts]),
            losses,
            [observation for part in parts for observation in part.observations],
        )

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Codes of rows: [n, dim] -> [n, heads]."""
        return self.candidates(rows, 1).squeeze(1)

    def approximate(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of rows, [n, heads], and their vectors, [n, dim]; cheaper than `encode_rows` and `look_up_rows`."""
        codes, quantized = [], []
        for codebook, lane in zip(self.codebooks, self._lanes(rows), strict=True):
            vectors = codebook.code_vectors()
            codes.append(nearest(lane, vectors, self.distance))
            quantized.append(F.embedding(codes[-1], vectors))
        return self._join_codes(codes), self._join(quantized)

    def candidates(self, rows: Tensor, count: int) -> Tensor:
        """The nearest few codes of rows, nearest first: [n, dim] -> [n, count, heads]."""
        codes = [
            nearest_few(lane, codebook.code_vectors(), self.distance, count)
            for codebook, lane in zip(self.codebooks, self._lanes(rows), strict=True)
        ]
        if self.separate_codebooks:
            return torch.stack(codes, dim=2)
        return rearrange(codes[0], "(n h) c -> n c h", h=self.heads)

    def decode_rows(self, codes: Tensor) -> Tensor:
        """Vectors of anyone's codes, checked: [n, heads] -> [n, dim]."""
        message = f"codes must be in [0, {self.codebook_size})"
        valid = ((codes >= 0) & (codes < self.codebook_size)).all()
        if torch.compiler.is_compiling():
            check(valid, message)
        elif not valid:
            raise ValueError(f"{message}; got {int(codes.min())} to {int(codes.max())}")
        return self.look_up_rows(codes)

    def look_up_rows(self, codes: Tensor) -> Tensor:
        """Vectors of codes that are known to be in range: [n, heads] -> [n, dim]."""
        pairs = zip(self.codebooks, self._code_lanes(codes), strict=True)
        return self._join([F.embedding(lane, codebook.code_vectors()) for codebook, lane in pairs])

    def _quantize_lane(self, codebook: Codebook, raw: Tensor, rows: Tensor, loss_rows: Tensor) -> RowQuantization:
        """As `quantize_rows`, of the rows [n, codebook_dim] of one codebook, on the sphere or not; codes are [n]."""
        observations = []
        if self.training:
            codebook.initialize(rows.detach())
            vectors = codebook.snapshot()
            codes, quantized = self.estimator.estimate(rows, vectors, self.distance, self.temperature)
            observations.append(Observation(codebook, rows.detach(), codes))
        else:
            vectors = codebook.code_vectors()
            if torch.is_grad_enabled():
                vectors = codebook.snapshot()
            codes = nearest(raw, vectors, self.distance)  # as `encode` sees them, to the last bit
            quantized = F.embedding(codes, vectors)
        constant = vectors.detach()
        output = quantized
        losses = {"commitment": self.commitment(loss_rows, constant, codes, self.distance)}
        if self.update.by_gradient:
            losses["codebook"] = mean_square(rows.detach(), vectors, codes, self.distance)
            if self.update.synchronous:
                chosen = F.embedding(codes, vectors)
                output = quantized + self.update.synchronous * (chosen - chosen.detach())
        for regularizer in self.regularizers:
            losses[regularizer.name] = regularizer(loss_rows, vectors, codes, self.distance)
        return RowQuantization(quantized, output, codes, losses, observations)

    def _target_loss(self, targets: Targets) -> dict[str, Tensor]:
        """The mean over the heads with known targets; nothing if there is none."""
        losses = []
        lanes = self._on_sphere(self._lanes(targets.rows))
        pairs = zip(self.codebooks, lanes, self._code_lanes(targets.codes), strict=True)
        for codebook, rows, codes in pairs:
            known = codes >= 0
            if codes.numel() and not -1 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
                raise ValueError(
                    f"target_codes must be in [0, {self.codebook_size}), or -1; "
                    f"got {int(codes.min())} to {int(codes.max())}"
                )
            if known.any():
                vectors = codebook.snapshot().detach()
                losses.append({"cross_entropy": cross_entropy(rows[known], vectors, codes[known], self.distance)})
        return mean_losses(losses)

    def _lanes(self, rows: Tensor) -> list[Tensor]:
        """Projected rows, cut into those of each codebook, [n, codebook_dim]."""
        rows = self.project_in(rows)
        if self.separate_codebooks:
            return list(rows.chunk(self.heads, dim=1))
        return [rearrange(rows, "n (h d) -> (n h) d", h=self.heads)]

    def _on_sphere(self, lanes: list[Tensor]) -> list[Tensor]:
        return [direction(lane) for lane in lanes] if self.distance.unit else lanes

    def _join(self, lanes: list[Tensor]) -> Tensor:
        """The inverse of `_lanes`."""
        if self.separate_codebooks:
            rows = torch.cat(lanes, dim=1)
        else:
            rows = rearrange(lanes[0], "(n h) d -> n (h d)", h=self.heads)
        return self.project_out(rows)

    def _code_lanes(self, codes: Tensor) -> list[Tensor]:
        return list(codes.unbind(1)) if self.separate_codebooks else [codes.reshape(-1)]

    def _join_codes(self, lanes: list[Tensor]) -> Tensor:
        return torch.stack(lanes, dim=1) if self.separate_codebooks else lanes[0].view(-1, self.heads)

    def _codes(self, codes: Tensor, positions: Positions) -> Tensor:
        return positions.codes(codes.squeeze(1) if self.heads == 1 else codes)

    def _code_rows(self, codes: Tensor, positions: Positions) -> Tensor:
        expected = (positions.shape[0], *((self.heads,) if self.heads > 1 else ()), *positions.shape[1:])
        if codes.shape != expected:
            raise ValueError(f"codes must have shape {expected}; got {tuple(codes.shape)}")
        rows = positions.code_rows(codes)
        return rows.unsqueeze(1) if self.heads == 1 else rows

    def _refuse_nonsense(self, separate_codebooks: bool, temperature: float | None) -> None:
        if separate_codebooks and self.heads == 1:
            raise ValueError("separate_codebooks must be False with one head; there is nothing to separate")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if temperature is not None and not self.estimator.tempered:
            raise ValueError("temperature must be None with an estimator that takes the nearest code; it has none")
        names = [regularizer.name for regularizer in self.regularizers]
        if len(set(names)) != len(names):
            raise ValueError(f"regularizers must be of different names; got {names}")
        for regularizer in self.regularizers:
            if not (regularizer.of_rows or self.update.by_gradient):
                raise ValueError(
                    f"{regularizer.name} must go with code vectors that learn by gradient, update=Gradient(); "
                    f"got {type(self.update).__name__}, which no loss can move"
                )
