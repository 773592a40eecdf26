"""What a model is."""

from dataclasses import dataclass

from codec.cli.model import load_model


@dataclass(frozen=True)
class ModelInfo:
    """What a model is.

    Attributes:
        model: Its name.
        fingerprint: Of its weights.
        sample_rate: Hz.
        frame_rate: Code frames per second.
        latency: Algorithmic delay from sample in to sample out, ms: a frame and the look-ahead.
        pre_roll: Of frames, how many before it a decoded one depends on.
        num_quantizers: Stages.
        codebook_size: Codes of a stage.
        bits: Of a code, packed.
        bitrates: Of the first stage, the first two and so on, bit/s of one channel, before entropy coding.
        parameters: Learned by gradient.
        entropy: Fingerprint of the tables for entropy coding; None: there are none.
    """

    model: str
    fingerprint: str
    sample_rate: int
    frame_rate: float
    latency: float
    pre_roll: int
    num_quantizers: int
    codebook_size: int
    bits: int
    bitrates: list[int]
    parameters: int
    entropy: str | None

    def rows(self) -> dict[str, str]:
        """Names and values, as text."""
        return {
            "model": f"{self.model} ({self.fingerprint})",
            "sample rate": f"{self.sample_rate} Hz",
            "frame rate": f"{self.frame_rate:g} frames/s",
            "latency": f"{self.latency:g} ms",
            "pre-roll": f"{self.pre_roll} frames",
            "stages": f"{self.num_quantizers} of {self.codebook_size} codes, {self.bits} bits each",
            "bitrates packed": f"{' '.join(map(str, self.bitrates))} bit/s",
            "parameters": f"{self.parameters}",
            "entropy tables": "none" if self.entropy is None else self.entropy,
        }


def read_model_info(name_or_folder: str) -> ModelInfo:
    """Load a model, and tell what it is.

    Raises:
        CommandError: There is no such model, or it cannot be loaded.
    """
    codec = load_model(name_or_folder)
    return ModelInfo(
        model=codec.name,
        fingerprint=codec.fingerprint(),
        sample_rate=codec.sample_rate,
        frame_rate=codec.frame_rate,
        latency=1000 * codec.latency,
        pre_roll=codec.pre_roll,
        num_quantizers=codec.num_quantizers,
        codebook_size=codec.codebook_size,
        bits=codec.bits_per_code,
        bitrates=[round(codec.bitrate(stages)) for stages in range(1, codec.num_quantizers + 1)],
        parameters=sum(parameter.numel() for parameter in codec.parameters()),
        entropy=None if codec.entropy is None else codec.entropy.fingerprint,
    )
