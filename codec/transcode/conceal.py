"""Decoding over gaps."""

from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from codec.model import Codec

# Long enough for no click, and too short for the held frame to buzz.
FADE_OUT_SECONDS = 0.1
FADE_IN_SECONDS = 0.02
# Of all channels, at a time: a gap may be of any length.
GAP_BLOCK_FRAMES = 400


class Decoder:
    """Decodes frames as they come; where some are lost, the last one sounds on and fades out.

    The time stays: lost frames give as many samples as they would have. What follows them fades in, and is right once
    its pre-roll has passed (`Codec.pre_roll`).

    Args:
        codec: In eval mode, and streaming.
    """

    def __init__(self, codec: Codec):
        self.codec = codec
        self._last: Tensor | None = None
        self._after_gap = False

    def decode(self, codes: NDArray[np.int64]) -> Tensor:
        """[channels, num_quantizers, frames] -> [channels, frames * hop_length]."""
        on_device = torch.from_numpy(codes).to(self.codec.device)
        waveform = self._run(on_device)
        if self._after_gap:
            ramp = self._ramp(FADE_IN_SECONDS, waveform.shape[-1])
            waveform[:, : len(ramp)] *= ramp
        self._last, self._after_gap = on_device[..., -1:], False
        return waveform

    def conceal(self, channels: int, num_frames: int) -> Iterator[Tensor]:
        """Samples in place of lost frames, in blocks [channels, some frames * hop_length]."""
        while num_frames:
            frames = min(num_frames, max(1, GAP_BLOCK_FRAMES // channels))
            waveform = torch.zeros(channels, frames * self.codec.hop_length)
            if self._last is not None and not self._after_gap:
                ramp = self._ramp(FADE_OUT_SECONDS, waveform.shape[-1]).flip(0)
                held = self._last.expand(-1, -1, -(-len(ramp) // self.codec.hop_length))
                waveform[:, : len(ramp)] = self._run(held)[:, : len(ramp)] * ramp
            self._after_gap = True
            num_frames -= frames
            yield waveform

    def _run(self, codes: Tensor) -> Tensor:
        return rearrange(self.codec.decode(codes), "c 1 t -> c t").cpu()

    def _ramp(self, seconds: float, longest: int) -> Tensor:
        """Rising gains, the first half of a Hann window."""
        length = min(round(seconds * self.codec.sample_rate), longest)
        return torch.hann_window(2 * length)[:length]
