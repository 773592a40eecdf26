"""Codes drawn from a language model, frame by frame."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from codec.lm.model import CodeLM
from codec.tokens import CodecTokenizer

# Steps of a prompt that are read at a time: logits of all of them are [batch, steps, vocab_size] floats.
READ_STEPS = 64
FLOAT32 = torch.finfo(torch.float32)


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits, always among the legal ones.

    Attributes:
        temperature: Divides the logits; 0: the most probable token, nothing is drawn.
        top_k: Only so many most probable tokens; None: all.
        top_p: Of those, only the fewest most probable ones whose probabilities reach this sum together (nucleus
            sampling, arXiv 1904.09751); None: all.

    Raises:
        ValueError: A value is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a positive number; got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be positive; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1; got {self.top_p}")

    def probabilities(self, logits: Tensor, legal: Tensor) -> Tensor:
        """What tokens are drawn with.

        Args:
            logits: Finite, [batch, vocab_size].
            legal: Which tokens may come, at least one of each row, [batch, vocab_size], bool.

        Returns:
            [batch, vocab_size], 0 for each token that is not legal; each row sums to 1.
        """
        values, ids = logits.masked_fill(~legal, -torch.inf).sort(dim=-1, descending=True, stable=True)
        # Within what float32 holds, since 0 / 0 and inf / inf are NaN.
        temperature = min(max(self.temperature or 1.0, FLOAT32.tiny), FLOAT32.max)
        # The largest is subtracted first: a tiny temperature would make it infinite.
        chances = ((values - values[:, :1]) / temperature).softmax(dim=-1)
        top_k = 1 if self.temperature == 0 else self.top_k
        if top_k is not None:
            chances[:, top_k:] = 0
        if self.top_p is not None:
            chances /= chances.sum(dim=-1, keepdim=True)
            chances[chances.cumsum(dim=-1) - chances >= self.top_p] = 0
        chances /= chances.sum(dim=-1, keepdim=True)
        return torch.zeros_like(chances).scatter(-1, ids, chances)

    def draw(self, logits: Tensor, legal: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens, one for each row of `probabilities`, [batch].

        Raises:
            ValueError: `logits` are not finite.
        """
        # Of a large vocabulary few are legal at a time: sorting all would take longer than the model does.
        (candidates,) = torch.where(legal.any(dim=0))
        logits = logits[:, candidates]
        if not logits.isfinite().all():
            raise ValueError("lm must give finite logits; got NaN or infinite ones: its training went wrong")
        probabilities = self.probabilities(logits, legal[:, candidates])
        if self.temperature == 0:
            return candidates[probabilities.argmax(dim=-1)]
        return candidates[rearrange(probabilities.multinomial(1, generator=generator), "b 1 -> b")]


class Frames(NamedTuple):
    """Frames of several samples side by side, as they became whole.

    Attributes:
        codes: [batch, num_quantizers, frames], int64; 0 in frames that a sample does not have, since it is over.
        lengths: How many first frames each sample has of them; fewer than `frames` only where it is over.
    """

    codes: Tensor
    lengths: list[int]


def generate(
    lm: CodeLM,
    prompt: Tensor | None = None,
    *,
    max_frames: int,
    may_end: bool = True,
    batch_size: int = 1,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Frames]:
    """Let a language model go on from codes, or begin by itself.

    Only legal tokens are drawn, so that there is nothing that cannot be decoded, and the model runs only where there is
    more than one. It keeps the keys and values of what it has read. Frames come as soon as they are whole: with the
    pattern "coarse_first", not before the last stage. Where the model's context is full, it goes on from the later half
    of the frames, as if the sequence began there; a frame that was not whole then is drawn anew. What comes last has no
    frames, and is all that comes where each sample ends at once.

    Args:
        lm: In eval mode, on any device.
        prompt: What to go on from, [batch, at least num_quantizers of `lm.tokenizer`, frames]; its frames are not given
            back. None: nothing.
        max_frames: Where each sample ends if it does not do so before, not counting the prompt.
        may_end: Whether a sample may end before `max_frames`; if not, what would end it is not legal before.
        batch_size: Samples, where there is no prompt.
        sampling: Default: `Sampling()`.
        generator: Of the random numbers, which are drawn on the CPU. Default: that of torch.

    Raises:
        ValueError: The prompt has too few stages, another shape, or is too long for the context; the context is too
            short; or a number is not positive.
    """
    tokenizer = lm.tokenizer
    if prompt is None:
        prompt = torch.zeros(batch_size, tokenizer.num_quantizers, 0, dtype=torch.int64)
    if prompt.ndim != 3 or prompt.shape[1] < tokenizer.num_quantizers:
        raise ValueError(
            f"prompt must be [batch, num_quantizers, frames] with at least {tokenizer.num_quantizers} stages; "
            f"got shape {tuple(prompt.shape)}"
        )
    if min(max_frames, prompt.shape[0]) < 1:
        raise ValueError(f"max_frames and batch_size must be positive; got {max_frames} and {prompt.shape[0]}")
    choose = _Chooser(tokenizer, may_end, sampling or Sampling(), generator)
    _check_context(lm, prompt.shape[-1], max_frames)
    return _generate(lm, prompt[:, : tokenizer.num_quantizers].cpu(), max_frames, _room(lm) // 2, choose)


def longest_prompt(lm: CodeLM, max_frames: int) -> int:
    """How many frames `generate` can go on from: one more must fit into the context.

    With the pattern "coarse_first" all that are to come must fit.

    Args:
        lm: The model.
        max_frames: As `generate` takes it.

    Returns:
        Frames; negative if the context is too short even without a prompt.
    """
    tokenizer = lm.tokenizer
    return _room(lm) - (max_frames if tokenizer.steps_per_frame is None else 1)


def generate_all(samples: Iterator[Frames]) -> list[Tensor]:
    """Wait for samples to end.

    Args:
        samples: What `generate` returns.

    Returns:
        The codes of each, [num_quantizers, its frames].
    """
    parts = [[codes[:, :length] for codes, length in zip(*frames, strict=True)] for frames in samples]
    return [torch.cat(sample, dim=-1) for sample in zip(*parts, strict=True)]


def _generate(lm: CodeLM, known: Tensor, max_frames: int, kept: int, choose: "_Chooser") -> Iterator[Frames]:
    over = [False] * len(known)
    while True:
        window = _Window(lm, known, max_frames, over)
        while not window.is_full:
            window.step(choose)
            if (frames := window.take()) is not None:
                yield frames
                max_frames -= frames.codes.shape[-1]
                known = torch.cat([known, frames.codes], dim=-1)
            if all(over) or not max_frames:
                yield Frames(known[..., :0], [0] * len(known))
                return
        known = known[..., known.shape[-1] - kept :]


def _room(lm: CodeLM) -> int:
    """How many whole frames the context holds; not positive if none."""
    one, two = (lm.tokenizer.num_steps(frames, eos=False) for frames in (1, 2))
    return 1 + (lm.max_steps - one) // (two - one)


def _check_context(lm: CodeLM, prompt_frames: int, max_frames: int) -> None:
    """Raise a ValueError if the context is too short for a prompt, or for anything."""
    tokenizer, longest = lm.tokenizer, longest_prompt(lm, max_frames)
    if prompt_frames <= longest:
        return
    context = f"context of {lm.max_steps} steps"
    whole = partial(tokenizer.num_steps, eos=False)
    if tokenizer.steps_per_frame is None:
        raise ValueError(
            f"prompt and continuation must fit into the {context} with the pattern {tokenizer.pattern!r}; "
            f"got {prompt_frames} and {max_frames} frames, which take {whole(prompt_frames + max_frames)}"
        )
    if longest < 0:
        raise ValueError(f"context must hold a frame, which takes {whole(1)} steps; got {lm.max_steps}")
    raise ValueError(
        f"prompt must be at most {longest} frames, so that one more fits into the {context}; got {prompt_frames}"
    )


class _Window:
    """Samples side by side, from a bos to where the context is full.

    Args:
        lm: The model.
        known: Frames that they begin with, [batch, num_quantizers, frames].
        max_frames: Frames after those.
        over: Which samples are over; kept up to date.
    """

    def __init__(self, lm: CodeLM, known: Tensor, max_frames: int, over: list[bool]):
        self._reader = _Reader(lm, len(known))
        self._width = lm.tokenizer.width
        self._max_steps = lm.max_steps
        self._num_quantizers = lm.tokenizer.num_quantizers
        self._taken = known.shape[-1]
        self._over = over
        # What is over has nothing but its end here, and padding.
        limits = [(0, 0) if gone else (self._taken, self._taken + max_frames) for gone in over]
        self._grammars = [
            lm.tokenizer.grammar(codes[:, :begun], end) for codes, (begun, end) in zip(known, limits, strict=True)
        ]

    @property
    def is_full(self) -> bool:
        """Whether the model cannot read another step."""
        return self._reader.num_steps >= self._max_steps

    def step(self, choose: "_Chooser") -> None:
        """Add a step to each sample, row by row: what the first row decides, the others obey."""
        rows = []
        for _ in range(self._width):
            legal = torch.stack([grammar.legal() for grammar in self._grammars])
            tokens = choose(legal, self._reader.logits)
            for grammar, token in zip(self._grammars, tokens.tolist(), strict=True):
                grammar.push(token)
            rows.append(tokens)
        self._reader.append(torch.stack(rows, dim=-1))
        self._over[:] = [gone or grammar.ended for gone, grammar in zip(self._over, self._grammars, strict=True)]

    def take(self) -> Frames | None:
        """The frames that became whole in all samples that are not over; None if there are none."""
        counts = [grammar.num_frames for grammar in self._grammars]
        live = [count for count, gone in zip(counts, self._over, strict=True) if not gone]
        new = (min(live) if live else max(counts)) - self._taken
        if new <= 0:
            return None
        lengths = [max(0, min(count - self._taken, new)) for count in counts]
        codes = torch.zeros(len(counts), self._num_quantizers, new, dtype=torch.int64)
        for sample, grammar, length in zip(codes, self._grammars, lengths, strict=True):
            if length:
                sample[:, :length] = grammar.codes(self._taken)[:, :length]
        self._taken += new
        return Frames(codes, lengths)


class _Reader:
    """A model and what it reads, from bos on. It reads no more than is asked about, and nothing twice.

    Args:
        lm: The model.
        batch_size: Sequences.

    Attributes:
        num_steps: Of each sequence.
    """

    def __init__(self, lm: CodeLM, batch_size: int):
        self.num_steps = 1
        self._lm = lm
        self._cache = lm.new_cache()
        self._unread = [torch.full((batch_size, lm.tokenizer.width), lm.tokenizer.bos_id)]
        self._logits = torch.empty(0)

    def append(self, step: Tensor) -> None:
        """Take a step, [batch, width]."""
        self._unread.append(step)
        self.num_steps += 1

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Of the step that comes next, for each of its rows, [batch, vocab_size], on the CPU."""
        if self._unread:
            ids = torch.stack(self._unread, dim=-1).to(self._lm.device)
            for part in ids.split(READ_STEPS, dim=-1):
                logits = self._lm(part, self._cache)
            self._logits = logits[:, -1].cpu()
            self._unread = []
        return self._logits


class _Chooser:
    """Chooses the tokens of a row; arguments as those of `generate`."""

    def __init__(self, tokenizer: CodecTokenizer, may_end: bool, sampling: Sampling, generator: torch.Generator | None):
        self._may_end = may_end
        self._sampling = sampling
        self._generator = generator
        # The special tokens come after the codes.
        self._is_code = torch.arange(tokenizer.vocab_size) < tokenizer.vocabulary.num_codes

    def __call__(self, legal: Tensor, logits: Callable[[], Tensor]) -> Tensor:
        """One token for each sequence, [batch].

        Args:
            legal: [batch, vocab_size], bool.
            logits: Gives them, [batch, vocab_size]; not asked where there is nothing to choose.
        """
        if not self._may_end:
            codes = legal & self._is_code
            legal = torch.where(codes.any(dim=-1, keepdim=True), codes, legal)
        if (legal.sum(dim=-1) == 1).all():
            return legal.int().argmax(dim=-1)
        return self._sampling.draw(logits(), legal, self._generator)
