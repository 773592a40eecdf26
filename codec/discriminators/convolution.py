"""The layers that all discriminators are made of."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    """2-D convolution with weight normalization (arXiv 1602.07868), of odd kernel sizes.

    Padded with zeros, so that n positions become n / stride, rounded up.
    """
    rows, columns = ((size - 1) * step // 2 for size, step in zip(kernel_size, dilation, strict=True))
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, (rows, columns), dilation)
    # He et al. 2015 (arXiv 1502.01852): activations keep their size from layer to layer. As torch starts convolutions,
    # each more than halves it, biases outweigh it, and a period discriminator learns nothing in its first 200 steps.
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.get_parameter("bias"))
    return weight_norm(conv)


class HiddenLayers(nn.Module):
    """Convolutions one after the other, each with a leaky ReLU behind it.

    Args:
        slope: Of the leaky ReLU, where it is negative.
        convolutions: From the first to the last.
    """

    def __init__(self, slope: float, *convolutions: nn.Module):
        super().__init__()
        # In place: a convolution's backward pass needs its input alone, an activation's its output.
        self.layers = nn.ModuleList(nn.Sequential(each, nn.LeakyReLU(slope, inplace=True)) for each in convolutions)

    def forward(self, x: Tensor) -> list[Tensor]:
        """What each layer returns, [batch, channels, ...]."""
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs
