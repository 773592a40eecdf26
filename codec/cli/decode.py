"""`codec decode`: file of codes -> audio file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.code_file import read_code_file
from codec.cli.errors import CommandError, one_line_errors
from codec.cli.model import load_model
from codec.cli.options import DEFAULT_MODEL, Model, Output, Overwrite, beside
from codec.cli.output import new_file

if TYPE_CHECKING:
    from torch import Tensor

    from codec import Codec
    from codec.bitstream import Header, Stream

Source = Annotated[Path, typer.Argument(metavar="IN.rvq", help="File of codes.")]


def decode(
    source: Source,
    output: Output = None,
    model: Model = DEFAULT_MODEL,
    overwrite: Overwrite = False,
) -> None:
    """Turn a file of codes back to audio: 16-bit WAV of the original's rate, channels and length."""
    from codec.audio import AudioFileError, write_audio

    with (
        one_line_errors(AudioFileError),
        new_file(output or beside(source, ".wav"), source=source, overwrite=overwrite) as temporary,
    ):
        stream = read_code_file(source)
        codec = load_model(model)
        try:
            waveform = decode_stream(stream, codec)
        except ValueError as error:
            raise CommandError(f"{source}: {error}") from error
        write_audio(temporary, waveform, stream.header.sample_rate)


def decode_stream(stream: "Stream", model: "Codec") -> "Tensor":
    """Decode every channel, to the rate and the length of the original.

    Args:
        stream: Codes of `model`.
        model: In eval mode.

    Returns:
        [channels, time].

    Raises:
        ValueError: The codes are of another model, or not what their header says.
    """
    import torch
    from einops import rearrange

    from codec.audio import fit_length, resample

    _check(stream.header, model)
    with torch.inference_mode():
        waveform = rearrange(model.decode(torch.from_numpy(stream.codes)), "c 1 t -> c t")
    return fit_length(resample(waveform, model.sample_rate, stream.header.sample_rate), stream.header.length)


def _check(header: "Header", model: "Codec") -> None:
    from codec.audio import resampled_length

    fingerprint = model.fingerprint()
    if header.fingerprint != fingerprint:
        raise ValueError(
            f"model must be the one that encoded the file, {header.model} ({header.fingerprint}); "
            f"got {model.name} ({fingerprint})"
        )
    # The length decides how much memory the output takes, so it must be that of the frames, which are there.
    length = resampled_length(header.length, header.sample_rate, model.sample_rate)
    frames = -(-length // model.hop_length)
    if header.num_frames != frames:
        raise ValueError(f"{header.length} samples must be {frames} frames; got {header.num_frames}")
