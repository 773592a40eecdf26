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
Bitrate = Annotated[
    int | None, typer.Option("--bitrate", help="Bit/s of each channel; one that the model has. Default: its highest.")
]
BeamSize = Annotated[
    int,
    typer.Option("--beam-size", min=1, help="Sequences of codes kept in the search: more are nearer, and take longer."),
]


def encode(
    source: Source,
    output: Output = None,
    bitrate: Bitrate = None,
    beam_size: BeamSize = 1,
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
        codec = load_model(model)
        try:
            stream = encode_audio(audio, codec, bitrate, beam_size)
        except ValueError as error:
            raise CommandError(str(error)) from error
        temporary.write_bytes(write_stream(stream))


def encode_audio(audio: "Audio", model: "Codec", bitrate: int | None = None, beam_size: int = 1) -> "Stream":
    """Encode every channel as a mono signal of its own.

    Args:
        audio: Of any sample rate.
        model: In eval mode.
        bitrate: Bit/s of each channel. Default: the highest.
        beam_size: As in `Codec.encode`.

    Raises:
        ValueError: The model has no such bitrate.
    """
    import torch
    from einops import rearrange

    from codec.audio import resample
    from codec.bitstream import Header, Stream

    num_quantizers = model.num_quantizers if bitrate is None else model.stages_at(bitrate)
    waveform = resample(audio.waveform, audio.sample_rate, model.sample_rate)
    with torch.inference_mode():
        codes = model.encode(rearrange(waveform, "c t -> c 1 t"), num_quantizers, beam_size=beam_size)
    header = Header(
        model=model.name,
        fingerprint=model.fingerprint(),
        sample_rate=audio.sample_rate,
        channels=audio.waveform.shape[0],
        length=audio.waveform.shape[1],
        num_quantizers=num_quantizers,
        bits=model.bits_per_code,
        num_frames=codes.shape[2],
    )
    return Stream(header, codes.numpy())
