"""The codec: waveform -> latents -> codes, and back."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.bitstream.entropy import EntropyTables
from codec.layers import streaming
from codec.model.config import CodecConfig
from codec.model.streaming import CodecState
from codec.quantize import ResidualVQ


class CodecOutput(NamedTuple):
    """What `Codec.forward` returns.

    Attributes:
        waveform: Decoded audio, of the shape of the input.
        codes: [batch, num_quantizers, frames], int64.
        losses: Of the quantizer, scalars by name.
    """

    waveform: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class Codec(nn.Module):
    """A neural audio codec: encoder, residual vector quantizer, decoder.

    Codes of a frame depend on the audio before it, on the frame, and on `look_ahead` samples after it. A frame of the
    output depends on its codes and those before. So padding at the end changes nothing before it.
    `codec.model.build.build_codec` makes a codec from settings.

    `encode` and `decode` hold all of their audio in memory. To code hours, or audio that is not over yet, let them
    stream: each call goes on where the last one stopped, and returns what became final. In all that is what coding the
    whole returns: the same codes (but where two codes are equally near to the last digit), and samples within 1e-4.

        with torch.inference_mode(), codec.streaming(batch_size=1):
            for chunk in chunks:                 # [1, 1, any number of samples]
                codes = codec.encode(chunk)      # [1, num_quantizers, 0 or more frames]
                play(codec.decode(codes))        # [1, 1, frames * hop_length]
            codes = codec.flush()                # the last frames: nothing comes after the look-ahead any more
            play(codec.decode(codes))

    Args:
        config: What the parts were built from; it is saved with the weights.
        encoder: [batch, 1, frames * hop_length + look_ahead] -> [batch, latent_dim, frames].
        quantizer: The residual stack.
        decoder: [batch, latent_dim, frames] -> [batch, 1, frames * hop_length].

    Attributes:
        entropy: Tables that the codes can be entropy-coded with; None if nobody made them.
        earlier_entropy: Tables that files were coded with before there were those; see `tables_of`.
    """

    def __init__(self, config: CodecConfig, encoder: nn.Module, quantizer: ResidualVQ, decoder: nn.Module):
        super().__init__()
        self.state: CodecState | None = None
        self.entropy: EntropyTables | None = None
        self.earlier_entropy: list[EntropyTables] = []
        self.config = config
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder

    @property
    def name(self) -> str:
        """Name of the model, stored in the files that it makes."""
        return self.config.name

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def sample_rate(self) -> int:
        """Of the audio, Hz."""
        return self.config.model.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples of a code frame."""
        return self.config.model.hop_length

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.config.model.frame_rate

    @property
    def look_ahead(self) -> int:
        """Samples after a code frame that its codes depend on."""
        return self.config.model.look_ahead

    @property
    def latency(self) -> float:
        """Algorithmic delay from sample in to sample out, in seconds: a frame and the look-ahead."""
        return self.config.model.latency

    @property
    def pre_roll(self) -> int:
        """Frames before a frame that its samples depend on: decoded from there on, they are those of the whole.

        An LSTM never forgets all. With one, this is the number after which hardly anything is left (`LSTM_MEMORY`).
        """
        from codec.model.build import FAMILIES

        return FAMILIES[self.config.model.family].pre_roll(self.config.model)

    @property
    def num_quantizers(self) -> int:
        """Stages; any number of first stages is a valid code."""
        return self.quantizer.num_quantizers

    @property
    def codebook_size(self) -> int:
        """Codes of each stage."""
        return self.config.quantizer.codebook_size

    @property
    def bits_per_code(self) -> int:
        """Bits that hold any code of a stage."""
        return self.config.quantizer.bits_per_code

    @property
    def beam_size(self) -> int:
        """Sequences of codes that the search keeps, unless the caller of `encode` says otherwise."""
        return self.config.quantizer.beam_size

    @property
    def rate_weight(self) -> float:
        """Weight of bits for codes that are to be entropy-coded; 0 without the tables for that."""
        return 0.0 if self.entropy is None else self.config.quantizer.rate_weight

    def bitrate(self, num_quantizers: int | None = None) -> float:
        """Bit/s of the first `num_quantizers` stages, of one channel. Default: all stages."""
        stages = self.num_quantizers if num_quantizers is None else num_quantizers
        return stages * self.config.bitrates[0]

    def stages_at(self, bitrate: int) -> int:
        """How many first stages make a bitrate.

        Args:
            bitrate: Bit/s of one channel, rounded to a whole number.

        Raises:
            ValueError: No number of stages does; the message lists the bitrates there are.
        """
        bitrates = [round(each) for each in self.config.bitrates]
        if bitrate not in bitrates:
            known = ", ".join(map(str, bitrates))
            raise ValueError(f"bitrate must be one that the model {self.name} has, {known} bit/s; got {bitrate}")
        return bitrates.index(bitrate) + 1

    def num_frames(self, length: int) -> int:
        """Code frames of so many samples, the last of them begun."""
        return -(-length // self.hop_length)

    def forward(self, waveform: Tensor) -> CodecOutput:
        """Encode, quantize and decode, with gradient; in training mode the codebooks learn.

        Args:
            waveform: In [-1, 1], [batch, 1, time].

        Raises:
            ValueError: `waveform` is of another shape.
            RuntimeError: In streaming: encode and decode.
        """
        if self.state is not None:
            raise RuntimeError("forward must be called outside of streaming; encode and decode stream")
        latents = self.encode_latents(waveform)
        quantized, codes, losses = self.quantizer(latents)
        return CodecOutput(self.decoder(quantized)[..., : waveform.shape[-1]], codes, losses)

    def streaming(self, batch_size: int = 1) -> AbstractContextManager[None]:
        """Inside, `encode` and `decode` go on where the last call stopped; see the class.

        Encoding and decoding are two streams, each of `batch_size` examples side by side.

        Raises:
            ValueError: `batch_size` is not positive.
            RuntimeError: The codec streams already.
        """
        return streaming(self, batch_size)

    def initial_state(self, batch_size: int) -> CodecState:
        """Of a stream without audio yet; `streaming` asks for it."""
        waiting = next(self.parameters()).new_zeros(batch_size, 1, 0)
        return CodecState(waiting, self.hop_length, self.look_ahead)

    def encode(
        self,
        waveform: Tensor,
        num_quantizers: int | None = None,
        *,
        beam_size: int | None = None,
        rate_weight: float = 0.0,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Audio to codes.

        Args:
            waveform: In [-1, 1], at `sample_rate`, [batch, 1, time]; in streaming, `time` may be 0.
            num_quantizers: How many first stages. Default: all.
            beam_size: How many sequences of codes the search keeps from stage to stage; see `ResidualVQ.encode`.
                Default: that of the model.
            rate_weight: Weight of the bits that codes will take if they are entropy-coded; see `ResidualVQ.encode`.
                Files are made with that of the model, `rate_weight`.
            lengths: For examples of several lengths, padded at their ends: samples of each, from 1 to `time`, [batch].
                What the padding holds changes no code of the first `num_frames(length)` frames, which are those of the
                example alone; the frames after them mean nothing. Not in streaming: there, feed silence.

        Returns:
            [batch, num_quantizers, ceil(time / hop_length)], int64. In streaming, of the frames that became final:
            those whose samples and look-ahead are there.

        Raises:
            ValueError: `waveform` is of another shape, or not finite, or beyond all level; or there are not so many
                stages, or `beam_size` or `rate_weight` is out of range, or `lengths` do not fit. In streaming, what is
                not finite is refused before it is part of the stream; a level beyond all is seen too late for that.
            RuntimeError: In streaming, after `flush`, or with another batch size.
        """
        stages = self.num_quantizers if num_quantizers is None else num_quantizers
        if not 1 <= stages <= self.num_quantizers:
            raise ValueError(f"num_quantizers must be from 1 to {self.num_quantizers}; got {num_quantizers}")
        beams = self.beam_size if beam_size is None else beam_size
        if beams < 1:  # before a stream takes the audio
            raise ValueError(f"beam_size must be positive; got {beam_size}")
        self.quantizer.check_rate_weight(rate_weight)
        self._check_shape(waveform)
        if lengths is not None:
            waveform = self._silence_padding(waveform, lengths)
        latents = self.encode_latents(waveform)
        if self.state is not None:
            self.state.choice = (stages, beams, rate_weight)
        return self._quantize(latents, stages, beams, rate_weight)

    def flush(self) -> Tensor:
        """End the audio of a stream: silence completes its last frame, and stands where the encoder looks ahead.

        Returns:
            The last codes, of as many stages as the last `encode` asked for, [batch, num_quantizers, frames].

        Raises:
            RuntimeError: Outside of streaming, or a second time.
        """
        if self.state is None:
            raise RuntimeError("flush must be called in streaming, where it ends the audio; encode does so by itself")
        silent = self._silence_after(self.state.length) if self.state.length else 0
        latents = self.encode_latents(self.state.waiting.new_zeros(self.state.batch_size, 1, silent))
        self.state.ended = True
        return self._quantize(latents, *(self.state.choice or (self.num_quantizers, self.beam_size, 0.0)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to audio.

        Args:
            codes: Of any number of first stages, [batch, num_quantizers, frames]; `frames` may be 0.

        Returns:
            In [-1, 1] but for overshoot, [batch, 1, frames * hop_length].

        Raises:
            ValueError: More stages than there are, or a code that is not in its codebook.
            RuntimeError: In streaming, with another batch size.
        """
        if codes.ndim != 3:
            raise ValueError(f"codes must be [batch, num_quantizers, frames]; got shape {tuple(codes.shape)}")
        if self.state is not None:
            self.state.check_batch("codes", codes)
        latents = self.quantizer.decode(codes)
        if latents.shape[-1] == 0:
            return latents.new_zeros(latents.shape[0], 1, 0)
        return self.decoder(latents)

    def encode_latents(self, waveform: Tensor) -> Tensor:
        """Audio to latents, before they are quantized. In streaming, of the same stream as `encode`.

        Args:
            waveform: In [-1, 1], [batch, 1, time]; in streaming, `time` may be 0.

        Returns:
            [batch, latent_dim, ceil(time / hop_length)]; in streaming, the frames that became final.

        Raises:
            ValueError: `waveform` is of another shape; in streaming, also if it is not finite.
            RuntimeError: In streaming, after `flush`, or with another batch size.
        """
        self._check_shape(waveform)
        if self.state is None:
            return self.encoder(F.pad(waveform, (0, self._silence_after(waveform.shape[-1]))))
        waveform = self.state.take(waveform)
        if waveform.shape[-1] == 0:
            return waveform.new_zeros(waveform.shape[0], self.config.model.latent_dim, 0)
        return self.encoder(waveform)

    def _check_shape(self, waveform: Tensor) -> None:
        if waveform.ndim != 3 or waveform.shape[1] != 1 or (waveform.shape[2] == 0 and self.state is None):
            raise ValueError(f"waveform must be [batch, 1, time], not empty; got shape {tuple(waveform.shape)}")

    def _silence_after(self, length: int) -> int:
        """Samples that complete the last frame, and that the encoder looks ahead to, once audio is over."""
        return self.num_frames(length) * self.hop_length - length + self.look_ahead

    def _silence_padding(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        batch, time = waveform.shape[0], waveform.shape[-1]
        if self.state is not None:
            raise ValueError("lengths must not be given in streaming; feed silence to the streams that are over")
        if lengths.shape != (batch,) or lengths.min() < 1 or lengths.max() > time:
            raise ValueError(
                f"lengths must be from 1 to {time}, one for each of {batch} examples; got {lengths.tolist()}"
            )
        real = torch.arange(time, device=waveform.device) < lengths.to(waveform.device)[:, None, None]
        # Not a product, since the padding may be NaN.
        return torch.where(real, waveform, 0)

    def _quantize(self, latents: Tensor, num_quantizers: int, beam_size: int, rate_weight: float) -> Tensor:
        if latents.shape[-1] == 0:  # of few samples in streaming, which must cost little
            return latents.new_zeros(latents.shape[0], num_quantizers, 0, dtype=torch.int64)
        if not latents.isfinite().all():
            raise ValueError("waveform must be finite and about in [-1, 1]; got values that make infinite latents")
        search = None
        if self.state is not None and (beam_size > 1 or rate_weight):
            search = self.state.search_of(self.quantizer, num_quantizers, rate_weight)
        return self.quantizer.encode(
            latents, num_quantizers, beam_size=beam_size, rate_weight=rate_weight, search=search
        )

    def tables_of(self, fingerprint: str) -> EntropyTables:
        """The entropy tables of a file, by their fingerprint in its header.

        Raises:
            ValueError: The model does not have them.
        """
        known = {tables.fingerprint: tables for tables in (self.entropy, *self.earlier_entropy) if tables is not None}
        if fingerprint not in known:
            from codec.model.folder import earlier_tables_file

            raise ValueError(
                f"model {self.name} must have the entropy tables {fingerprint} of the file; got "
                f"{', '.join(known) or 'none'}: put them into its folder as {earlier_tables_file(fingerprint)}, from "
                f"the machine that encoded the file"
            )
        return known[fingerprint]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell these weights from others; stored in the files that the model makes."""
        from codec.model.checkpoint import fingerprint

        return fingerprint(self)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json and model.safetensors; see `codec.model.checkpoint.save_pretrained`."""
        from codec.model.checkpoint import save_pretrained

        save_pretrained(self, folder, dtype)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "Codec":
        """Load a codec in eval mode; see `codec.model.checkpoint.from_pretrained`."""
        from codec.model.checkpoint import from_pretrained

        return from_pretrained(name_or_folder)
