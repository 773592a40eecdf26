"""Train a codec by a recipe.

accelerate launch recipes/train.py recipes/librispeech/speech_16khz.toml --data LibriSpeech
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from codec import Codec, build_codec
from codec.evaluate import evaluate
from codec.train.checkpoint import list_checkpoints, load_latest_checkpoint, save_checkpoint
from codec.train.data import Clip, SpeakerCrops, find_librispeech
from codec.train.log import Window, append_line, drop_lines_after, summarize
from codec.train.memory import keep_freed_memory
from codec.train.objective import Objective
from codec.train.recipe import Recipe, load_recipe
from codec.train.schedule import cosine_with_warmup, geometric


def main() -> None:
    arguments = parse_arguments()
    try:
        recipe = load_recipe(arguments.recipe, arguments.set)
        train(recipe, arguments.output or Path("runs") / recipe.name, arguments.resume)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a codec by a recipe.")
    parser.add_argument("recipe", type=Path, help="a TOML file")
    parser.add_argument("--data", metavar="ROOT", help="folder that holds the splits; replaces data.root")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--set", action="append", default=[], metavar="'TABLE.KEY = VALUE'", help="replace a setting")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder of the run")
    arguments = parser.parse_args()
    if arguments.data:
        arguments.set.append(f"data.root = '''{arguments.data}'''")
    return arguments


def train(recipe: Recipe, output: Path, resume: bool) -> None:
    # What runs where.
    if not torch.cuda.is_available():
        keep_freed_memory()
    accelerator = Accelerator(
        mixed_precision=recipe.run.mixed_precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[
            # Ranks compute equal codebooks; there is nothing to broadcast.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            # The others wait while one process validates.
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
    )
    console = Console(quiet=not accelerator.is_main_process)
    checkpoints, log, valid_log = output / "checkpoints", output / "log.jsonl", output / "valid.jsonl"
    if not resume and (list_checkpoints(checkpoints) or log.exists()):
        raise ValueError(f"{output} holds a run; pass --resume to go on with it, or another --output")
    if resume and not (list_checkpoints(checkpoints) or log.exists()):
        raise ValueError(f"{checkpoints} must hold a checkpoint to resume from; found none")
    set_seed(recipe.run.seed)

    # What is trained, and on what.
    clips = find_librispeech(recipe.data.root, recipe.data.train)
    valid = [clip.path for clip in find_librispeech(recipe.data.root, recipe.data.valid)]
    rates = sorted({clip.sample_rate for clip in clips})
    if rates != [recipe.model.sample_rate]:
        raise ValueError(f"clips must have the model's sample rate, {recipe.model.sample_rate} Hz; got {rates}")
    if recipe.run.initial_examples < accelerator.num_processes:
        raise ValueError(f"initial_examples must be at least one a process; got {recipe.run.initial_examples}")
    codec = build_codec(recipe.codec)
    optimizer = torch.optim.AdamW(
        codec.parameters(),
        lr=recipe.optimizer.learning_rate,
        betas=recipe.optimizer.betas,
        weight_decay=recipe.optimizer.weight_decay,
        fused=True,
    )
    objective = Objective(recipe.loss, codec.sample_rate).to(accelerator.device)
    # A copy from before `prepare`, which changes the forward method of what it is given.
    averaged = AveragedModel(codec, accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(recipe.run.averaging))
    accelerator.register_for_checkpointing(averaged)
    model, optimizer = accelerator.prepare(codec, optimizer)
    # Weights are equal on all ranks; what each draws from here on is its own.
    set_seed(recipe.run.seed, device_specific=True)

    # Where it starts.
    # A run that was killed before its first checkpoint starts again.
    if list_checkpoints(checkpoints):
        first_step = load_latest_checkpoint(accelerator, checkpoints)
    else:
        first_step = 0
        initialize_codebooks(accelerator, codec, recipe, clips)
        averaged.update_parameters(codec)
    console.print(
        f"{recipe.name}: {sum(p.numel() for p in codec.parameters()) / 1e6:.1f} M parameters, "
        f"{sum(clip.num_samples / clip.sample_rate for clip in clips) / 3600:.1f} h of "
        f"{len({clip.speaker for clip in clips})} speakers, {accelerator.num_processes} x {accelerator.device}, "
        f"steps {first_step} to {recipe.run.steps}"
    )
    if accelerator.is_main_process:
        # What would fail in hours, for want of a package or of audio, fails now.
        validate(averaged.module, valid[:1])
        output.mkdir(parents=True, exist_ok=True)
        drop_lines_after(log, first_step)
        drop_lines_after(valid_log, first_step)

    window = Window(codec.quantizer.codebook_sizes)
    with progress_bar(console) as progress:
        bar = progress.add_task("train", total=recipe.run.steps, completed=first_step)
        for step, waveform in enumerate(batches(accelerator, recipe, clips, first_step), start=first_step + 1):
            # One step.
            for group in optimizer.param_groups:
                factor = cosine_with_warmup(step - 1, recipe.optimizer.warmup_steps, recipe.run.steps)
                group["lr"] = factor * recipe.optimizer.learning_rate
            codec.quantizer.set_temperature(geometric(step - 1, recipe.run.steps, *recipe.quantizer.temperature))
            result = model(waveform)
            loss, losses = objective(result, waveform)
            accelerator.backward(loss)
            gradient_norm = accelerator.clip_grad_norm_(codec.parameters(), recipe.optimizer.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            averaged.update_parameters(codec)
            window.add(
                {"loss": loss, **losses, "gradient_norm": gradient_norm},
                result.codes,
                waveform.shape[0] * waveform.shape[-1] / codec.sample_rate,
            )
            progress.advance(bar)

            # What it tells and leaves, now and then.
            last = step == recipe.run.steps
            validating = last or step % recipe.run.validate_every == 0
            saving = last or step % recipe.run.save_every == 0
            # No line of the log spans a checkpoint, so that a resumed run writes those of an uninterrupted one.
            if saving or validating or step % recipe.run.log_every == 0:
                values = window.read()
                if accelerator.is_main_process:
                    console.print(f"step {step}  {summarize(values)}")
                    append_line(log, {"step": step, "learning_rate": group["lr"], **values})
            if validating:
                if accelerator.is_main_process:
                    scores = validate(averaged.module, valid)
                    for bitrate, means in scores.items():
                        numbers = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
                        console.print(f"step {step}  {bitrate}  {numbers}")
                    append_line(valid_log, {"step": step, **scores})
                    averaged.module.save_pretrained(output / "model")
                accelerator.wait_for_everyone()
            # After validation: a run that is killed while it validates does so when it is resumed.
            if saving:
                save_checkpoint(accelerator, checkpoints, step)
            if saving or validating:
                window = Window(codec.quantizer.codebook_sizes)  # its clock starts anew
    accelerator.end_training()


def initialize_codebooks(accelerator: Accelerator, codec: Codec, recipe: Recipe, clips: list[Clip]) -> None:
    """Run k-means, stage after stage, on more audio than a step has."""
    # Another seed: crops that the steps do not see.
    crops = draw_crops(recipe, clips, recipe.run.initial_examples, recipe.run.seed + 1)
    share = range(accelerator.process_index, recipe.run.initial_examples, accelerator.num_processes)
    with torch.no_grad(), accelerator.autocast():
        codec(torch.stack([crops[index] for index in share]).to(accelerator.device))


def batches(accelerator: Accelerator, recipe: Recipe, clips: list[Clip], first_step: int) -> Iterator[Tensor]:
    """This process's share of the batch of each step from `first_step` on, [batch, 1, time]."""
    size = recipe.data.batch_size
    loader = DataLoader(
        draw_crops(recipe, clips, recipe.run.steps * size, recipe.run.seed),
        batch_size=size,
        # Which crops a step sees depends on its number alone, so a resumed run sees what it would have seen.
        sampler=range(first_step * size, recipe.run.steps * size),
        num_workers=recipe.data.workers,
        prefetch_factor=8 if recipe.data.workers else None,
        pin_memory=accelerator.device.type == "cuda",
        # Of its own, so that starting to read does not advance the one that a checkpoint restored.
        generator=torch.Generator(),
    )
    yield from accelerator.prepare(loader)


def draw_crops(recipe: Recipe, clips: list[Clip], count: int, seed: int) -> SpeakerCrops:
    return SpeakerCrops(clips, recipe.crop_length, count, seed, recipe.data.gain_db)


def validate(codec: Codec, paths: list[Path]) -> dict[str, dict[str, float]]:
    """Scores of the validation clips by bitrate: a quarter, half and all of the stages."""
    stages = sorted({max(1, codec.num_quantizers // 4), max(1, codec.num_quantizers // 2), codec.num_quantizers})
    codec.eval()
    report = evaluate(codec, paths, [round(codec.bitrate(count)) for count in stages])
    codec.train()
    return {f"{codec.bitrate(row.num_quantizers):.0f} bit/s": row.scores._asdict() for row in report.rows}


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


if __name__ == "__main__":
    main()
