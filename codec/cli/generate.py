"""`codec generate`: audio that a language model makes up, code by code."""

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli.errors import CommandError, one_line_errors
from codec.cli.files import STANDARD_STREAM
from codec.cli.log import log
from codec.cli.model import load_model
from codec.cli.options import DEFAULT_MODEL, Device, Model, Overwrite
from codec.cli.output import new_file
from codec.cli.progress import show_steps

if TYPE_CHECKING:
    from torch import Tensor

    from codec import Codec
    from codec.audio import AudioSink
    from codec.lm.model import CodeLM
    from codec.lm.sample import Frames

# More is a slip, and too much to count in frames. Of seconds it is 30 years.
LARGEST = 1e9

LMFolder = Annotated[
    Path, typer.Option("--lm", metavar="FOLDER", help="Language model of codes, as its training left it.")
]
Wav = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT.wav|-",
        help="16-bit WAV to write; - is standard output. Of several samples OUT-1.wav, OUT-2.wav, ...",
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt", metavar="IN.wav|-", help="Audio of any format to go on from. Default: begin with nothing."
    ),
]
PromptSeconds = Annotated[
    float | None,
    typer.Option("--prompt-seconds", metavar="SECONDS", help="Take so much of the prompt's beginning. Default: all."),
]
Duration = Annotated[
    float, typer.Option("--duration", metavar="SECONDS", help="Sample so much at most; the prompt is not counted.")
]
FullDuration = Annotated[
    bool, typer.Option("--full-duration", help="Go on until --duration, even if the model would end before.")
]
OnlyContinuation = Annotated[
    bool, typer.Option("--only-continuation", help="Leave the prompt out. Default: write it, too, decoded from codes.")
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", min=0, help="Below 1: rather the more probable codes; 0: always the most probable."),
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Draw from the K most probable codes only.")]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", max=1, help="Draw from the fewest codes whose probabilities reach P together."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=(1 << 63) - 1, help="Of the random numbers.")]
Count = Annotated[int, typer.Option("--count", min=1, help="Samples to make, side by side.")]


def generate(
    lm: LMFolder,
    output: Wav,
    prompt: Prompt = None,
    prompt_seconds: PromptSeconds = None,
    duration: Duration = 10.0,
    full_duration: FullDuration = False,
    only_continuation: OnlyContinuation = False,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    count: Count = 1,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    overwrite: Overwrite = False,
) -> None:
    """Let a language model continue audio, or make it up; what it samples is decoded and written at once."""
    for option, value, largest in (
        ("--duration", duration, LARGEST),
        ("--prompt-seconds", prompt_seconds, LARGEST),
        ("--temperature", temperature or None, LARGEST),
        ("--top-p", top_p, 1),
    ):
        if value is not None and not 0 < value <= largest:
            raise typer.BadParameter(
                f"must be a positive number, at most {largest:g}; got {value:g}", param_hint=option
            )
    if prompt is None and prompt_seconds is not None:
        raise typer.BadParameter("needs a prompt: pass --prompt", param_hint="--prompt-seconds")
    names = name_outputs(output, count)

    import torch

    from codec.audio import AudioFileError, open_sink

    try:
        from codec.lm import sample
    except ImportError as error:
        raise CommandError(f"{error.name} must be installed for this: pip install 'rvq-codec[lm]'") from error

    with one_line_errors(AudioFileError, ValueError), ExitStack() as stack:
        source = None if prompt in (None, STANDARD_STREAM) else Path(str(prompt))
        files = [
            1 if name is None else stack.enter_context(new_file(name, source=source, overwrite=overwrite))
            for name in names
        ]
        codec = load_model(model, device)
        language_model = load_lm(lm, codec)
        max_frames = max(1, round(duration * codec.frame_rate))
        known = torch.zeros(1, language_model.tokenizer.num_quantizers, 0, dtype=torch.int64)
        if prompt is not None:
            longest = sample.longest_prompt(language_model, max_frames)
            known = read_prompt(codec, prompt, known.shape[1], prompt_seconds, longest)
        samples = sample.generate(
            language_model,
            known.expand(count, -1, -1),
            max_frames=max_frames,
            may_end=not full_duration,
            sampling=sample.Sampling(temperature, top_k, top_p),
            generator=torch.Generator().manual_seed(seed),
        )
        report = stack.enter_context(show_steps(log.isEnabledFor(logging.INFO)))
        sinks = [stack.enter_context(open_sink(file, codec.sample_rate, 1)) for file in files]
        write_samples(
            codec,
            known,
            samples,
            sinks,
            with_prompt=not only_continuation,
            progress=lambda frames: report("sampling", frames / max_frames),
        )
    for name, sink in zip(names, sinks, strict=True):
        if not sink.written:
            log.warning("%s: is empty, since the model ended it at once", name or "standard output")
        log.debug("%s: %.2f s of audio", name or "standard output", sink.written / sink.format.sample_rate)


def name_outputs(output: str, count: int) -> list[Path | None]:
    """A file for each sample; None for standard output.

    Raises:
        typer.BadParameter: There is no such place for so many.
    """
    if output == STANDARD_STREAM:
        if count > 1:
            raise typer.BadParameter(f"standard output takes one sample; got {count}", param_hint="--count")
        if sys.stdout is None or sys.stdout.isatty():
            raise typer.BadParameter("standard output must be a file or a pipe", param_hint="--output")
        return [None]
    path = Path(output)
    if not path.name:
        raise typer.BadParameter(f"must name a file; got {output!r}", param_hint="--output")
    if count == 1:
        return [path]
    digits = len(str(count))
    return [path.with_name(f"{path.stem}-{number:0{digits}}{path.suffix}") for number in range(1, count + 1)]


def load_lm(folder: Path, codec: "Codec") -> "CodeLM":
    """Load a language model, in eval mode, to where the codec is.

    Raises:
        CommandError: It cannot be loaded, or it learned the codes of another codec.
    """
    from codec.lm import CodeLM

    try:
        lm = CodeLM.from_pretrained(folder).to(codec.device)
    except ValueError as error:
        raise CommandError(str(error)) from error
    try:
        lm.check_codec(codec)
    except ValueError as error:
        raise CommandError(f"{folder}: {error}; pass --model") from error
    return lm


def read_prompt(codec: "Codec", source: str, stages: int, seconds: float | None, longest: int) -> "Tensor":
    """Encode audio, but for the last frames, whose codes would tell that silence follows.

    Of audio that is too long no more is read than tells that.

    Args:
        codec: In eval mode.
        source: Path; "-" is standard input.
        stages: How many.
        seconds: How much of its beginning, to the nearest frame, and one at least. None: all.
        longest: How many frames the language model can go on from.

    Returns:
        Codes of the mean of the channels, [1, stages, frames], on the CPU.

    Raises:
        AudioFileError: It is no audio, or damaged.
        CommandError: It is too short to make a frame, or too long for the language model.
    """
    import torch
    from einops import reduce

    from codec.audio import open_source, resample

    look_ahead = codec.look_ahead / codec.sample_rate
    max_frames = max(1, longest + 1)
    if seconds is not None:
        max_frames = min(max_frames, max(1, round(seconds * codec.frame_rate)))
    with open_source(0 if source == STANDARD_STREAM else source) as audio:
        # A second more, so that resampling shows its end in no frame.
        enough = (max_frames / codec.frame_rate + look_ahead + 1) * audio.sample_rate
        mono = reduce(audio.read_all(enough), "c t -> 1 1 t", "mean")
    waveform = resample(mono, audio.sample_rate, codec.sample_rate)
    with torch.inference_mode(), codec.streaming():
        # Not flushed: a stream gives the frames alone whose look-ahead is there.
        codes = codec.encode(waveform.to(codec.device), stages)[..., :max_frames].cpu()
    if not codes.shape[-1]:
        shortest = codec.hop_length / codec.sample_rate + look_ahead
        raise CommandError(
            f"{audio.name}: prompt must be at least {shortest:.3f} s; got {mono.shape[-1] / audio.sample_rate:.3f} s"
        )
    if codes.shape[-1] > longest:
        shorter = f"--prompt-seconds {longest / codec.frame_rate:.3f}" if longest > 0 else "a shorter --duration"
        raise CommandError(
            f"{audio.name}: prompt must be at most {max(0, longest)} frames, so that what comes after fits into the "
            f"context of the language model; pass {shorter}"
        )
    if audio.warning is not None:
        log.warning("%s: %s", audio.name, audio.warning)
    return codes


def write_samples(
    codec: "Codec",
    prompt: "Tensor",
    samples: "Iterable[Frames]",
    sinks: "Sequence[AudioSink]",
    *,
    with_prompt: bool,
    progress: Callable[[int], object],
) -> None:
    """Decode what comes and write it, each sample to its own place.

    Args:
        codec: In eval mode.
        prompt: Codes that each sample continues, [1, num_quantizers, frames].
        samples: As `codec.lm.sample.generate` gives them.
        sinks: At the codec's rate, mono.
        with_prompt: Whether to write the prompt. It is decoded anyway: the sound of a frame depends on those before.
        progress: Is told how many frames of the samples are written.
    """
    import torch

    done = 0
    with torch.inference_mode(), codec.streaming(len(sinks)):
        waveform = codec.decode(prompt.expand(len(sinks), -1, -1).to(codec.device)).cpu()
        if with_prompt:
            for sink, channels in zip(sinks, waveform, strict=True):
                sink.write(channels)
        for codes, lengths in samples:
            waveform = codec.decode(codes.to(codec.device)).cpu()
            for sink, channels, length in zip(sinks, waveform, lengths, strict=True):
                sink.write(channels[:, : length * codec.hop_length])
            done += codes.shape[-1]
            progress(done)
