"""Several discriminators together."""

from collections.abc import Iterable

from torch import Tensor, nn

from codec.discriminators.judgement import Judgement


class Discriminators(nn.Module):
    """Discriminators that each judge the same audio, in the order given.

    Args:
        members: Modules that make a `Judgement` of a waveform [batch, 1, time].
    """

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """One judgement a member, of [batch, 1, time].

        Raises:
            ValueError: The waveform has another shape, or no sample.
        """
        return [member(waveform) for member in self.members]
