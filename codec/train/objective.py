"""What training minimizes: the weighted sum of the losses of a recipe."""

from torch import Tensor, nn

from codec.losses import SpectralLoss, waveform_loss
from codec.model.codec import CodecOutput
from codec.train.recipe import LossConfig


class Objective(nn.Module):
    """Reconstruction and quantizer losses.

    Args:
        config: Weights and resolutions.
        sample_rate: Hz.
    """

    def __init__(self, config: LossConfig, sample_rate: int):
        super().__init__()
        self.config = config
        self.spectral = SpectralLoss(sample_rate, config.window_lengths, config.num_mels, config.power)

    def forward(self, output: CodecOutput, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each loss by name before it was weighted.

        Args:
            output: Of the codec.
            target: The audio that it was given, [batch, 1, time].
        """
        spectral = self.spectral(output.waveform, target)
        losses = {
            "log_mel": spectral.log_mel,
            "stft": spectral.stft,
            "waveform": waveform_loss(output.waveform.float(), target),
            **output.losses,
        }
        weighted = [getattr(self.config, name) * loss for name, loss in losses.items()]
        return sum(weighted[1:], start=weighted[0]), losses
