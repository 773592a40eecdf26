"""The codec: waveform -> latents -> codes, and back."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.model.config import CodecConfig
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
    output depends on its codes and those before. So padding at the end changes nothing before it. `encode` and `decode`
    hold all of their audio in memory. `codec.model.build.build_codec` makes a codec from settings.

    Args:
        config: What the parts were built from; it is saved with the weights.
        encoder: [batch, 1, frames * hop_length + look_ahead] -> [batch, latent_dim, frames].
        quantizer: The residual stack.
        decoder: [batch, latent_dim, frames] -> [batch, 1, frames * hop_length].
    """

    def __init__(self, config: CodecConfig, encoder: nn.Module, quantizer: ResidualVQ, decoder: nn.Module):
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder

    @property
    def name(self) -> str:
        """Name of the model, stored in the files that it makes."""
        return self.config.name

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
        return self.sample_rate / self.hop_length

    @property
    def look_ahead(self) -> int:
        """Samples after a code frame that its codes depend on."""
        return self.config.model.look_ahead

    @property
    def latency(self) -> float:
        """Algorithmic delay from sample in to sample out, in seconds: a frame and the look-ahead."""
        return (self.hop_length + self.look_ahead) / self.sample_rate

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
        return (self.codebook_size - 1).bit_length()

    def bitrate(self, num_quantizers: int | None = None) -> float:
        """Bit/s of the first `num_quantizers` stages, of one channel. Default: all stages."""
        stages = self.num_quantizers if num_quantizers is None else num_quantizers
        return stages * self.frame_rate * self.bits_per_code

    def stages_at(self, bitrate: int) -> int:
        """How many first stages make a bitrate.

        Args:
            bitrate: Bit/s of one channel, rounded to a whole number.

        Raises:
            ValueError: No number of stages does; the message lists the bitrates there are.
        """
        bitrates = [round(self.bitrate(stages)) for stages in range(1, self.num_quantizers + 1)]
        if bitrate not in bitrates:
            known = ", ".join(map(str, bitrates))
            raise ValueError(f"bitrate must be one that the model {self.name} has, {known} bit/s; got {bitrate}")
        return bitrates.index(bitrate) + 1

    def forward(self, waveform: Tensor) -> CodecOutput:
        """Encode, quantize and decode, with gradient; in training mode the codebooks learn.

        Args:
            waveform: In [-1, 1], [batch, 1, time].

        Raises:
            ValueError: `waveform` is of another shape.
        """
        latents = self.encode_latents(waveform)
        quantized, codes, losses = self.quantizer(latents)
        return CodecOutput(self.decoder(quantized)[..., : waveform.shape[-1]], codes, losses)

    def encode(self, waveform: Tensor, num_quantizers: int | None = None, *, beam_size: int = 1) -> Tensor:
        """Audio to codes.

        Args:
            waveform: In [-1, 1], at `sample_rate`, [batch, 1, time].
            num_quantizers: How many first stages. Default: all.
            beam_size: How many sequences of codes the search keeps from stage to stage; see `ResidualVQ.encode`.

        Returns:
            [batch, num_quantizers, ceil(time / hop_length)], int64.

        Raises:
            ValueError: `waveform` is of another shape, or NaN, or beyond all level; or there are not so many stages,
                or `beam_size` is not positive.
        """
        latents = self.encode_latents(waveform)
        if not latents.isfinite().all():
            raise ValueError("waveform must be finite and about in [-1, 1]; got values that make infinite latents")
        return self.quantizer.encode(latents, num_quantizers, beam_size=beam_size)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to audio.

        Args:
            codes: Of any number of first stages, [batch, num_quantizers, frames].

        Returns:
            In [-1, 1] but for overshoot, [batch, 1, frames * hop_length].

        Raises:
            ValueError: More stages than there are, or a code that is not in its codebook.
        """
        if codes.ndim != 3:
            raise ValueError(f"codes must be [batch, num_quantizers, frames]; got shape {tuple(codes.shape)}")
        return self.decoder(self.quantizer.decode(codes))

    def encode_latents(self, waveform: Tensor) -> Tensor:
        """Audio to latents, before they are quantized.

        Args:
            waveform: In [-1, 1], [batch, 1, time].

        Returns:
            [batch, latent_dim, ceil(time / hop_length)].

        Raises:
            ValueError: `waveform` is of another shape.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 1 or waveform.shape[2] == 0:
            raise ValueError(f"waveform must be [batch, 1, time], not empty; got shape {tuple(waveform.shape)}")
        # The audio is over: silence completes the last frame, and stands where the encoder looks ahead.
        missing = -waveform.shape[-1] % self.hop_length
        return self.encoder(F.pad(waveform, (0, missing + self.look_ahead)))

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
