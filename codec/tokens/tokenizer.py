"""Codes <-> token ids of a language model."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from codec.choose import choose
from codec.settings import settings_from
from codec.tokens.grammar import Grammar
from codec.tokens.layout import Layout
from codec.tokens.pattern import PATTERNS
from codec.tokens.vocabulary import BOS, Vocabulary
from codec.whole import write_whole

TOKENIZER_FILE = "codec_tokenizer.json"

# Tensors, arrays of numpy, or nested lists of equal length.
Integers = Tensor | NDArray[np.integer[Any]] | Sequence[Any]


class AudioCodec(Protocol):
    """What a tokenizer asks of a codec; `codec.Codec` has it."""

    @property
    def name(self) -> str: ...
    @property
    def num_quantizers(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...
    def fingerprint(self) -> str: ...
    def encode(self, waveform: Tensor, num_quantizers: int | None = None) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...


class TokenBatch(NamedTuple):
    """Sequences of several lengths in one tensor.

    Attributes:
        input_ids: [batch, steps], or [batch, width, steps] where a step has several rows; int64.
        attention_mask: 1 where a step is of the sequence, 0 where it is padding; [batch, steps], int64.
    """

    input_ids: Tensor
    attention_mask: Tensor


@dataclass(frozen=True)
class TokenizerSettings:
    """What `codec_tokenizer.json` holds, at most: what is not known is left out, and has no value that counts here."""

    num_quantizers: int
    codebook_size: int
    pattern: str
    shared: bool = False
    extras: tuple[str, ...] = ()
    model: str = ""
    fingerprint: str = ""
    frame_rate: float = 0.0


class CodecTokenizer:
    """Turns codes into sequences of token ids, and sequences back into codes.

    Sequences are [steps], or [width, steps] where the pattern has a row for each of several stages.

    Args:
        num_quantizers: Stages that are tokens: the first ones, if the codes have more.
        codebook_size: Codes of a stage.
        pattern: Order of the codes; a name in `codec.tokens.PATTERNS`.
        shared: The stages share one range of ids.
        extras: Names of further tokens; see `Vocabulary`.
        model: Name of the codec whose codes these are.
        fingerprint: Of that codec's weights.
        frame_rate: Of that codec, frames per second.

    Attributes:
        vocabulary: Which token has which id.
        width: Rows of a step.
        steps_per_frame: What a frame costs; None where its codes are not together (coarse_first).
        allowances: The sets of legal tokens that there are, bool [num_allowances, vocab_size]; see `allowances_of`.

    Raises:
        ValueError: The pattern is unknown, the frame rate is not positive, or the vocabulary cannot be made.
    """

    def __init__(
        self,
        num_quantizers: int,
        codebook_size: int,
        pattern: str = "flatten",
        *,
        shared: bool = False,
        extras: Sequence[str] = (),
        model: str | None = None,
        fingerprint: str | None = None,
        frame_rate: float | None = None,
    ):
        if frame_rate is not None and not 0 < frame_rate < math.inf:
            raise ValueError(f"frame_rate must be a positive number; got {frame_rate}")
        self.vocabulary = Vocabulary(num_quantizers, codebook_size, shared, extras)
        self._layout = Layout(self.vocabulary, choose(PATTERNS, pattern, "pattern"))
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.pattern = pattern
        self.shared = shared
        self.extras = tuple(extras)
        self.model = model
        self.fingerprint = fingerprint
        self.frame_rate = frame_rate
        self.vocab_size = self.vocabulary.size
        self.pad_id, self.bos_id, self.eos_id = (self.vocabulary.id_of(name) for name in ("pad", "bos", "eos"))
        self.width = self._layout.width
        by_frame = PATTERNS[pattern].by_frame or num_quantizers == 1
        self.steps_per_frame = num_quantizers // self.width if by_frame else None
        self.allowances = self._layout.allowances

    @classmethod
    def from_codec(
        cls,
        codec: AudioCodec,
        num_quantizers: int | None = None,
        pattern: str = "flatten",
        *,
        shared: bool = False,
        extras: Sequence[str] = (),
    ) -> "CodecTokenizer":
        """A tokenizer of a codec's codes: of its first `num_quantizers` stages, or of all.

        Raises:
            ValueError: The codec has fewer stages; or as the constructor does.
        """
        stages = codec.num_quantizers if num_quantizers is None else num_quantizers
        if not 1 <= stages <= codec.num_quantizers:
            raise ValueError(f"num_quantizers must be from 1 to {codec.num_quantizers}; got {stages}")
        return cls(
            stages,
            codec.codebook_size,
            pattern,
            shared=shared,
            extras=extras,
            model=codec.name,
            fingerprint=codec.fingerprint(),
            frame_rate=codec.frame_rate,
        )

    def num_steps(self, frames: int, *, bos: bool = True, eos: bool = True) -> int:
        """Steps of the sequence that `encode` makes of so many frames: what a pattern costs."""
        return self._layout.num_cells(frames) // self.width + bos - (not eos)

    def num_frames(self, steps: int) -> int:
        """Frames of a whole sequence of so many steps, with bos and eos: the inverse of `num_steps`.

        Raises:
            ValueError: No whole sequence has so many.
        """
        none, one = self.num_steps(0), self.num_steps(1)
        frames, rest = divmod(steps - none, one - none)
        if frames < 0 or rest:
            raise ValueError(f"steps must be those of a whole sequence, {none}, {one}, ...; got {steps}")
        return frames

    def encode(self, codes: Integers, *, bos: bool = True, eos: bool = True) -> Tensor:
        """The sequence of a recording's codes.

        Args:
            codes: Integers, [at least num_quantizers, frames]; `frames` may be 0.
            bos: Begin with a step of bos.
            eos: End with the last eos. Otherwise the step with it is left out, as from a sequence cut to size; the
                rows of delay before the last one have theirs all the same.

        Returns:
            Ids, [steps] or [width, steps], int64, on the device of the codes.

        Raises:
            ValueError: The codes have fewer stages, or one is not in the codebook.
        """
        stream = self._layout.encode(self._check_codes(codes))
        return self._shape(stream, self.bos_id, bos, eos)

    def prompt(self, codes: Integers) -> Tensor:
        """The steps of every sequence that begins with these codes, whatever comes after: what a model goes on from.

        In delay, rows below the first are short of their last frames, and in coarse_first there is stage 0 alone: the
        other codes have their places after what is still to come. `grammar(codes)` allows only them there.

        Args:
            codes: As for `encode`.

        Returns:
            As `encode` does: bos, and the steps that are certain.
        """
        codes = self._check_codes(codes)
        steps = codes.shape[1] * (self.steps_per_frame or 1)
        return self._shape(self._layout.encode(codes), self.bos_id, bos=True)[..., : 1 + steps]

    def decode(self, ids: Integers) -> Tensor:
        """The codes of a sequence, or of the beginning of one: the whole frames that it holds.

        Args:
            ids: [steps] or [width, steps], integers. What stands before the first step of bos is passed over; without
                one, the sequence begins at once. Steps of padding may follow.

        Returns:
            Codes, [num_quantizers, frames], int64.

        Raises:
            ValueError: `ids` is of another shape, or a token stands where it is not legal; the message says where.
        """
        ids = self._check_ids(ids)
        rows = ids[None] if self.width == 1 else ids
        (begins,) = torch.where((rows == self.bos_id).all(0))
        (filled,) = torch.where((rows != self.pad_id).any(0))
        first = int(begins[0]) + 1 if len(begins) else 0
        last = int(filled[-1]) + 1 if len(filled) else 0
        return self._layout.decode(rearrange(rows[:, first:last], "w s -> (s w)"), first)

    @torch.no_grad()
    def encode_waveform(self, codec: AudioCodec, waveform: Tensor) -> Tensor:
        """The sequence of a recording, with bos and eos.

        Args:
            codec: The one whose codes these tokens are. Its fingerprint is taken every time, which for many short
                recordings costs more than `codec.encode` of them all and then `encode`.
            waveform: Audio at the codec's sample rate, [1, time] or [1, 1, time].

        Raises:
            ValueError: It is another codec, or the waveform has another shape.
        """
        self.check_codec(codec)
        if waveform.ndim not in (2, 3) or waveform.shape[:-1].numel() != 1:
            raise ValueError(f"waveform must be [1, time] or [1, 1, time]; got shape {tuple(waveform.shape)}")
        return self.encode(codec.encode(waveform.reshape(1, 1, -1), self.num_quantizers)[0])

    @torch.no_grad()
    def decode_waveform(self, codec: AudioCodec, ids: Integers) -> Tensor:
        """The audio of a sequence, [1, time], at the codec's sample rate.

        Args:
            codec: The one whose codes these tokens are.
            ids: As for `decode`.

        Raises:
            ValueError: It is another codec; or as `decode` does.
        """
        self.check_codec(codec)
        return codec.decode(self.decode(ids)[None])[0]

    def batch(self, sequences: Sequence[Integers], padding_side: str = "right") -> TokenBatch:
        """Sequences in one tensor, the shorter ones padded.

        Args:
            sequences: Each [steps] or [width, steps], at least one.
            padding_side: `right`, to train; or `left`, where all are to be continued at once.

        Raises:
            ValueError: There is no sequence, one is of another shape, or there is no such side.
        """
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be left or right; got {padding_side!r}")
        if not sequences:
            raise ValueError("sequences must be at least one; got none")
        by_step = [rearrange(self._check_ids(ids), "... s -> s ...") for ids in sequences]
        masks = [torch.ones(len(steps), dtype=torch.int64, device=steps.device) for steps in by_step]
        input_ids = pad_sequence(by_step, True, self.pad_id, padding_side)
        return TokenBatch(rearrange(input_ids, "b s ... -> b ... s"), pad_sequence(masks, True, 0, padding_side))

    def allowances_of(self, frames: int, *, bos: bool = True, eos: bool = True) -> Tensor:
        """Which tokens are legal at each position, given what stands before it.

        `allowances[allowances_of(frames)]` is the mask of the logits, [(width,) steps, vocab_size].

        Returns:
            Rows of `allowances`, of the shape that `encode` returns for so many frames.
        """
        return self._shape(self._layout.allowances_of(frames), BOS % len(self.allowances), bos, eos)

    def grammar(self, prompt: Integers | None = None, max_frames: int | None = None) -> Grammar:
        """What is legal in a sequence that is being made, token by token after bos.

        Args:
            prompt: Codes that it begins with, [at least num_quantizers, frames]: in their places they alone are legal.
            max_frames: Where the sequence must end, if it did not before.

        Raises:
            ValueError: The prompt is longer, or not made of codes.
        """
        codes = torch.zeros(self.num_quantizers, 0, dtype=torch.int64) if prompt is None else self._check_codes(prompt)
        return Grammar(self._layout, codes, max_frames)

    def check_codec(self, codec: AudioCodec) -> None:
        """Refuse a codec whose codes these tokens are not.

        Raises:
            ValueError: It has other weights, fewer stages, or codebooks of another size.
        """
        if self.fingerprint is not None and self.fingerprint != (own := codec.fingerprint()):
            raise ValueError(
                f"codec must be the one whose codes these are, {self.model or 'unnamed'} ({self.fingerprint}); "
                f"got {codec.name} ({own})"
            )
        if self.num_quantizers > codec.num_quantizers or self.codebook_size != codec.codebook_size:
            raise ValueError(
                f"codec must have {self.num_quantizers} stages of {self.codebook_size} codes, as the tokens have; "
                f"got {codec.num_quantizers} of {codec.codebook_size}"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write codec_tokenizer.json into a folder, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        known = {name: getattr(self, name) for name in TokenizerSettings.__dataclass_fields__}
        content = json.dumps({name: value for name, value in known.items() if value is not None}, indent=2) + "\n"
        write_whole(folder / TOKENIZER_FILE, content.encode())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "CodecTokenizer":
        """Read what `save_pretrained` wrote.

        Raises:
            ValueError: The file cannot be read, or is none of a tokenizer.
        """
        path = Path(folder) / TOKENIZER_FILE
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(table, dict):
                raise ValueError(f"settings must be a JSON object; got {type(table).__name__}")
            settings = settings_from(table, TokenizerSettings)
            return cls(**{name: getattr(settings, name) for name in table})
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        except RecursionError:
            raise ValueError(f"{path}: nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _shape(self, stream: Tensor, bos_value: int, bos: bool, eos: bool = True) -> Tensor:
        """Cells without bos -> steps and rows."""
        rows = rearrange(stream, "(s w) -> w s", w=self.width)
        rows = F.pad(rows, (int(bos), 0 if eos else -1), value=bos_value)
        return rows if self.width > 1 else rows[0]

    def _check_codes(self, codes: Integers) -> Tensor:
        stages = self.num_quantizers
        codes = torch.as_tensor(codes)
        if codes.ndim != 2 or codes.shape[0] < stages or codes.is_floating_point():
            raise ValueError(
                f"codes must be integers, [num_quantizers, frames] of {stages} stages or more; "
                f"got {codes.dtype}, {tuple(codes.shape)}"
            )
        codes = codes[:stages].long()
        low, high = map(int, codes.aminmax()) if codes.numel() else (0, 0)
        if low < 0 or high >= self.codebook_size:
            raise ValueError(f"codes must be from 0 to {self.codebook_size - 1}; got {low} to {high}")
        return codes

    def _check_ids(self, ids: Integers) -> Tensor:
        ids = torch.as_tensor(ids)
        rows = () if self.width == 1 else (self.width,)
        if ids.shape[:-1] != rows or ids.ndim == 0 or ids.is_floating_point():
            shape = "[steps]" if self.width == 1 else f"[{self.width}, steps]"
            raise ValueError(f"ids must be integers, {shape}; got {ids.dtype}, {tuple(ids.shape)}")
        return ids.long()
