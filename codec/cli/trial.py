"""A file encoded and decoded once, as `codec encode` and `codec decode` do it, with what it took and gave."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from codec.cli.file_info import PCM_BYTES
from codec.cli.log import log

if TYPE_CHECKING:
    from torch import Tensor

    from codec import Codec
    from codec.audio import Audio


class Quantity(NamedTuple):
    """How a value of a `Trial` is shown.

    Attributes:
        heading: Above it, in a table of several trials.
        label: Beside it, in a list of one.
        form: Of the value.
        unit: After it, in a list of one.
    """

    heading: str
    label: str
    form: str
    unit: str = ""


QUANTITIES = {
    "num_quantizers": Quantity("stages", "stages", "{}"),
    "bitrate": Quantity("bit/s", "on disk", "{:.0f}", " bit/s"),
    "payload_bitrate": Quantity("codes", "codes alone", "{:.0f}", " bit/s"),
    "compression": Quantity("ratio", "compression", "{:.1f}", " times smaller than 16-bit PCM"),
    "pesq_wb": Quantity("PESQ-WB", "PESQ-WB", "{:.2f}"),
    "stoi": Quantity("STOI", "STOI", "{:.3f}"),
    "si_sdr": Quantity("SI-SDR", "SI-SDR", "{:.1f}", " dB"),
    "mel_distance": Quantity("mel", "mel distance", "{:.1f}", " dB"),
    "peak": Quantity("peak", "decoded peak", "{:.1f}", " dB"),
    "encode_speed": Quantity("encode", "encoding", "{:.1f}", " times real time"),
    "decode_speed": Quantity("decode", "decoding", "{:.1f}", " times real time"),
}


@dataclass(frozen=True)
class Trial:
    """The file at one bitrate.

    Attributes:
        num_quantizers: Stages.
        bitrate: Of the file of codes, all of its bytes counted, bit/s of all channels.
        payload_bitrate: Of the codes alone, bit/s.
        compression: How many times smaller the file of codes is than 16-bit PCM.
        pesq_wb, stoi, si_sdr, mel_distance: See `codec.evaluate.metrics`; means over the channels. nan where there is
            nothing to judge, None where a package is not installed.
        peak: Of the decoded audio, dB; 0 is full scale.
        encode_speed: Seconds of audio encoded in one second, from the file on.
        decode_speed: Seconds of audio decoded in one second, to the file.
    """

    num_quantizers: int
    bitrate: float
    payload_bitrate: float
    compression: float
    pesq_wb: float | None
    stoi: float | None
    si_sdr: float | None
    mel_distance: float | None
    peak: float
    encode_speed: float
    decode_speed: float

    def cells(self) -> list[str]:
        """As text, in the order of `QUANTITIES`."""
        values = [(getattr(self, name), quantity.form) for name, quantity in QUANTITIES.items()]
        return ["-" if value is None else form.format(value) for value, form in values]


def run_trial(
    codec: "Codec", num_quantizers: int, source: Path, decoded: Path, waveform: "Tensor", score_rate: int
) -> Trial:
    """Encode a file, and decode it to another one.

    Args:
        codec: In eval mode.
        num_quantizers: Stages.
        source: The audio.
        decoded: Where to put the WAV.
        waveform: What is in `source`, [channels, time].
        score_rate: Hz: what both are converted to before they are compared.
    """
    from codec.audio import open_sink, open_source
    from codec.bitstream import verify
    from codec.transcode import decode_file, encode_source

    file = io.BytesIO()
    start = perf_counter()
    with open_source(source) as audio:
        seconds = encode_source(codec, audio, file, num_quantizers=num_quantizers).seconds
    encoded = perf_counter()
    file.seek(0)
    decode_file(codec, file, lambda rate, channels, length: open_sink(decoded, rate, channels, length=length))
    end = perf_counter()
    estimate, sample_rate = read_whole(decoded)
    size = file.getbuffer().nbytes
    file.seek(0)
    return Trial(
        num_quantizers=num_quantizers,
        bitrate=8 * size / seconds,
        payload_bitrate=8 * verify(file).payload_bytes / seconds,
        compression=PCM_BYTES * waveform.numel() / size,
        **score(waveform, estimate, sample_rate, score_rate),
        peak=peak_of(estimate),
        encode_speed=seconds / (encoded - start),
        decode_speed=seconds / (end - encoded),
    )


def score(original: "Tensor", decoded: "Tensor", sample_rate: int, score_rate: int) -> dict[str, float | None]:
    """Scores by name, means over the channels; None for one whose package is not installed."""
    from codec.audio import resample
    from codec.evaluate import mel_distance, pesq_wb, si_sdr, stoi
    from codec.evaluate.metrics import mean_of_known

    pairs = [
        (resample(reference, sample_rate, score_rate), resample(estimate, sample_rate, score_rate))
        for reference, estimate in zip(original, decoded, strict=True)
    ]
    scores: dict[str, float | None] = {
        "si_sdr": mean_of_known(si_sdr(*pair) for pair in pairs),
        "mel_distance": mean_of_known(mel_distance(*pair, score_rate) for pair in pairs),
    }
    for name, measure in (("pesq_wb", pesq_wb), ("stoi", stoi)):
        try:
            scores[name] = mean_of_known(measure(*pair, score_rate) for pair in pairs)
        except ImportError:
            scores[name] = None
    return scores


def peak_of(waveform: "Tensor") -> float:
    """The largest sample, dB; 0 is full scale."""
    peak = float(waveform.abs().max())
    return 20 * math.log10(peak) if peak else -math.inf


def read_whole(path: Path) -> "Audio":
    """All of a file, as `codec encode` reads it."""
    from codec.audio import Audio, open_source

    with open_source(path) as source:
        waveform = source.read_all()
    if source.warning is not None:
        log.warning("%s: %s", path, source.warning)
    return Audio(waveform, source.sample_rate)
