"""What a codec keeps of a stream of audio between calls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from codec.quantize import ResidualVQ
from codec.quantize.beam import BeamSearch


@dataclass
class CodecState:
    """Samples that wait until a code frame can be made of them, and how frames are coded.

    The encoder so runs on whole frames alone, and not at all for a few samples.

    Attributes:
        waiting: [batch_size, 1, time].
        hop_length: Samples of a frame.
        ahead: Samples that the first frame needs besides; 0 once it is made.
        length: Samples so far.
        choice: Stages, beam size and weight of bits of the last call to `encode`; None before the first.
        ended: Whether the audio is over.
    """

    waiting: Tensor
    hop_length: int
    ahead: int
    length: int = 0
    choice: tuple[int, int, float] | None = None
    ended: bool = False
    _search: BeamSearch | None = None

    @property
    def batch_size(self) -> int:
        """Streams side by side."""
        return self.waiting.shape[0]

    def take(self, waveform: Tensor) -> Tensor:
        """Add samples.

        Args:
            waveform: [batch_size, 1, time], of any length, 0 too, and any floating-point type.

        Returns:
            Samples for as many frames as can be made: [batch_size, 1, frames * hop_length], `ahead` more for the
            first; or none.

        Raises:
            RuntimeError: The audio is over, or `waveform` has another number of streams.
            ValueError: `waveform` has NaNs, infinite values or integers; the stream can go on without them.
        """
        if self.ended:
            raise RuntimeError("a stream that flush() ended takes no more audio; start another one")
        self.check_batch("waveform", waveform)
        if not waveform.is_floating_point():
            raise ValueError(f"waveform must be floats in [-1, 1]; got {waveform.dtype}")
        waveform = waveform.to(self.waiting)
        if not waveform.isfinite().all():
            raise ValueError("waveform must be finite; got NaN or infinite samples, which were not added to the stream")
        self.length += waveform.shape[-1]
        waveform = torch.cat([self.waiting, waveform], dim=-1)
        frames = max(0, (waveform.shape[-1] - self.ahead) // self.hop_length)
        taken = frames * self.hop_length + self.ahead if frames else 0
        if frames:
            self.ahead = 0
        # A copy, since a slice would hold all of a long waveform in memory.
        self.waiting = waveform[..., taken:].clone()
        return waveform[..., :taken]

    def search_of(self, quantizer: ResidualVQ, num_quantizers: int, rate_weight: float) -> BeamSearch:
        """The search of the stream, made when it is first asked for: for a few frames that takes the longest."""
        search = self._search
        if search is None or (search.num_quantizers, search.rate_weight) != (num_quantizers, rate_weight):
            search = self._search = quantizer.search(num_quantizers, rate_weight=rate_weight)
        return search

    def check_batch(self, name: str, tensor: Tensor) -> None:
        """Raise a RuntimeError unless a tensor has an example for each stream."""
        if tensor.shape[0] != self.batch_size:
            raise RuntimeError(
                f"{name} must have an example for each of the {self.batch_size} streams; got {tensor.shape[0]}"
            )
