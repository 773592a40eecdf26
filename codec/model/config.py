"""The settings of a codec, as they stand in config.json and in recipes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelConfig:
    """Encoder and decoder.

    The settings of a family stand at its name: another family does not read them, and refuses those that were changed.

    Attributes:
        family: Which networks; see `codec.model.build.FAMILIES`.
        sample_rate: Hz.
        hop_length: Samples of a code frame.
        transform_hop: `convnext`: samples of a frame inside the networks; divides `hop_length`.
        look_ahead: Samples after the end of a code frame that its codes depend on. `convnext`: a multiple of
            `transform_hop`, and at least that, since transform frames overlap. `seanet`: any number, 0 too.
        dim: `convnext`: channels of encoder and decoder. `seanet`: channels at the sample rate (EnCodec has 32), twice
            as many after each ratio.
        encoder_depth: `convnext`: blocks of the encoder.
        decoder_depth: `convnext`: blocks of the decoder.
        expansion: `convnext`: channels inside a block, as a multiple of `dim`.
        kernel_size: `convnext`: frames that a block's convolution sees. `seanet`: frames that the first and the last
            convolution of encoder and decoder see.
        companding: `convnext`: exponent on the size of the MDCT coefficients inside the networks; 1 leaves them as they
            are, 0.5 is near the law of loudness. See `codec.layers.companding`.
        head: `convnext`: how the decoder makes samples of its last channels; name in `HEADS`.
        latent_dim: Channels of the latents, which are quantized.
        ratios: `seanet`: strides in the order of the decoder; the encoder has them in reverse. Their product is
            `hop_length`.
        residual_units: `seanet`: units at each rate, with dilations 1, 2, 4 and so on.
        lstm_layers: `seanet`: of the LSTM at the frame rate, in encoder and decoder each. Without it, at 0, codes
            depend on a bounded past.
        activation: `seanet`: name in `ACTIVATIONS`.
    """

    family: str = "convnext"
    sample_rate: int = 16000
    hop_length: int = 320
    transform_hop: int = 160
    look_ahead: int = 800
    dim: int = 384
    encoder_depth: int = 4
    decoder_depth: int = 5
    expansion: int = 3
    kernel_size: int = 7
    companding: float = 1.0
    head: str = "mdct"
    latent_dim: int = 128
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    residual_units: int = 1
    lstm_layers: int = 2
    activation: str = "elu"

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def latency(self) -> float:
        """Algorithmic delay from sample in to sample out, in seconds: a frame and the look-ahead."""
        return (self.hop_length + self.look_ahead) / self.sample_rate


@dataclass(frozen=True)
class QuantizerConfig:
    """The residual stack; `codec.quantize` explains each choice.

    Attributes:
        num_quantizers: Stages.
        codebook_size: Codes of a stage.
        codebook_dim: Size of the code vectors, if they are projected; 0 for that of the latents.
        distance: Name in `DISTANCES`.
        estimator: Name in `ESTIMATORS`.
        initializer: Name in `INITIALIZERS`.
        update: Name in `UPDATES`.
        decay: Weight of the past in moving averages.
        dead_ratio: Codes used less than this times uniform use are replaced.
        dropout: Probability that a training example keeps only some first stages.
        temperature: Of estimators that draw codes, at the first and at the last step of a training run; between them
            each step lowers it by the same factor.
        beam_size: Sequences of codes that the search keeps where a codec encodes, unless the caller says otherwise; see
            `ResidualVQ.encode`. Training takes the nearest codes.
        rate_weight: Weight of bits in codes that are entropy-coded; see `ResidualVQ.encode`.
    """

    num_quantizers: int = 12
    codebook_size: int = 1024
    codebook_dim: int = 0
    distance: str = "euclidean"
    estimator: str = "straight_through"
    initializer: str = "kmeans"
    update: str = "ema"
    decay: float = 0.99
    dead_ratio: float = 0.1
    dropout: float = 0.5
    temperature: tuple[float, float] = (1.0, 1.0)
    beam_size: int = 1
    rate_weight: float = 0.0

    @property
    def bits_per_code(self) -> int:
        """Bits that hold any code of a stage."""
        return (self.codebook_size - 1).bit_length()


@dataclass(frozen=True)
class CodecConfig:
    """A codec: what config.json holds.

    Attributes:
        name: Name of the model, stored in the files that it makes.
        model: Encoder and decoder.
        quantizer: The residual stack between them.
    """

    name: str = "codec"
    model: ModelConfig = field(default_factory=ModelConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    @property
    def bitrates(self) -> list[float]:
        """Bit/s of the first stage, the first two and so on, of one channel, without entropy coding."""
        stage = self.model.frame_rate * self.quantizer.bits_per_code
        return [stages * stage for stages in range(1, self.quantizer.num_quantizers + 1)]
