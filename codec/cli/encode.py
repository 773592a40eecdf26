"""`codec encode`: audio file -> file of codes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.errors import CommandError, one_line_errors
from codec.cli.model import load_model
from codec.cli.options import DEFAULT_MODEL, Model, Output, Overwrite, beside
from codec.cli.output import new_file

if TYPE_CHECKING:
    from codec import Codec
    from codec.audio import Audio
    from codec.bitstream import Stream

Source = Annotated[Path, typer.Argument(metavar="IN.wav", help="WAV, FLAC or Ogg, of any rate and channel count.")]
Bitrate = Annotated[int, typer.Option("--bitrate", help="Bit/s of each channel; must be one that the model has.")]


def encode(
    source: Source,
    output: Output = None,
    bitrate: Bitrate = 3000,
    model: Model = DEFAULT_MODEL,
    overwrite: Overwrite = False,
) -> None:
    """Compress an audio file to a file of codes."""
    from codec.audio import AudioFileError, read_audio
    from codec.bitstream import write_stream

    with (
        one_line_errors(AudioFileError),
        new_file(output or beside(source, ".rvq"), source=source, overwrite=overwrite) as temporary,
    ):
        audio = read_audio(source)
        stream = encode_audio(audio, load_model(model), bitrate)
        temporary.write_bytes(write_stream(stream))


def encode_audio(audio: "Audio", model: "Codec", bitrate: int) -> "Stream":
    """Encode every channel as a mono signal of its own.

    Args:
        audio: Of any sample rate.
        model: In eval mode.
        bitrate: Bit/s of each channel.

    Raises:
        CommandError: The model has no such bitrate.
    """
    import torch
    from einops import rearrange

    from codec.audio import resample
    from codec.bitstream import Header, Stream

    num_quantizers = _stages_of(model, bitrate)
    waveform = resample(audio.waveform, audio.sample_rate, model.sample_rate)
    with torch.inference_mode():
        codes = model.encode(rearrange(waveform, "c t -> c 1 t"), num_quantizers)
    header = Header(
        model=model.name,
        fingerprint=model.fingerprint(),
        sample_rate=audio.sample_rate,
        channels=audio.waveform.shape[0],
        length=audio.waveform.shape[1],
        num_quantizers=num_quantizers,
        bits=(model.codebook_size - 1).bit_length(),
        num_frames=codes.shape[2],
    )
    return Stream(header, codes.numpy())


def _stages_of(model: "Codec", bitrate: int) -> int:
    bitrates = [round(model.bitrate(stages)) for stages in range(1, model.num_quantizers + 1)]
    if bitrate not in bitrates:
        known = ", ".join(map(str, bitrates))
        raise CommandError(f"bitrate must be one that the model {model.name} has, {known} bit/s; got {bitrate}")
    return bitrates.index(bitrate) + 1
