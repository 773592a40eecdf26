"""Train a codec by a recipe.

accelerate launch recipes/train.py recipes/librispeech/speech_16khz.toml --data LibriSpeech
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import set_seed
from rich.console import Console

from codec.audio import AudioFileError, read_audio
from codec.corpora.clip import Clip, hold_out
from codec.corpora.corpus import find_clips
from codec.distributed import gather_objects
from codec.evaluate import Report, evaluate, usual_bitrates
from codec.evaluate.history import read_lines
from codec.evaluate.page import FACTS, RECIPE, write_page
from codec.evaluate.plots import usage_map
from codec.evaluate.report import load_clip
from codec.train.accelerator import start_accelerator
from codec.train.batches import Batch, SkipList, batches, share_size
from codec.train.checkpoint import (
    differences,
    last_checkpoint,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from codec.train.crops import Crops, NoAudioError
from codec.train.folder import RunFolder
from codec.train.launch import start_missing_processes
from codec.train.log import Window, append_line, drop_lines_after, summarize
from codec.train.recipe import Recipe, load_recipe
from codec.train.shell import one_line, parse_arguments, progress_bar
from codec.train.step import DivergedError, Trainer
from codec.train.track import Tracks

# What a checkpoint cannot be loaded without: its weights mean nothing to another.
ARCHITECTURE = (
    "model.",
    "discriminators.",
    *(f"quantizer.{name}:" for name in ("num_quantizers", "codebook_size", "codebook_dim", "distance", "update")),
)
HANDLERS = (
    # Ranks compute equal codebooks; there is nothing to broadcast.
    DistributedDataParallelKwargs(broadcast_buffers=False),
    # A rank may be done with its validation clips long before another.
    InitProcessGroupKwargs(timeout=timedelta(hours=1)),
)
NO_VALIDATION: dict[str, Any] = {"step": 0, "name": "", "score": math.nan}


def main() -> None:
    start_missing_processes()
    arguments = parse_arguments("Train a codec by a recipe.", data="the audio")
    with ExitStack() as claim:
        with one_line(ValueError, OSError, ImportError, AudioFileError, NoAudioError):
            recipe = load_recipe(arguments.recipe, arguments.set)
            folder = RunFolder(arguments.output or Path("runs") / recipe.name)
            folder.check(arguments.resume)
            settings = recipe.run.mixed_precision, recipe.run.trackers, folder.path
            run = Run(recipe, folder, start_accelerator(*settings, HANDLERS))
            if run.main:
                claim.enter_context(folder.claimed(arguments.resume))
            run.begin()
        # From here on an error is a bug, and keeps its traceback, but for these.
        with one_line(DivergedError, OSError, AudioFileError, NoAudioError):
            run.train()
            run.end()


class Run:
    """A training run, from its recipe to the report.

    Args:
        recipe: Says everything about it.
        folder: Where it leaves everything.
        accelerator: Gives device, precision, ranks and trackers.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, accelerator: Accelerator):
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.main = accelerator.is_main_process
        self.console = Console(quiet=not self.main)
        share_size(recipe.data.batch_size, recipe.run.micro_batches, accelerator.num_processes, "data.batch_size")
        share_size(recipe.run.initial_examples, 1, accelerator.num_processes, "run.initial_examples")
        self.skipped_clips = 0
        self.clips, self.valid = self.find_audio()
        self.audio = self.audio_digest()
        self.crops = self.draw_crops(recipe.run.seed)
        # Weights are equal on all ranks; what each draws afterwards is its own.
        set_seed(recipe.run.seed)
        self.trainer = Trainer(accelerator, recipe)
        set_seed(recipe.run.seed, device_specific=True)
        self.step = 0
        self.skipped_files = SkipList()
        self.newly_skipped: list[tuple[str, str]] = []
        self.best = NO_VALIDATION
        self.tracking = bool(recipe.run.trackers)

    def find_audio(self) -> tuple[list[Clip], list[Clip]]:
        """Clips to train on, and clips to validate on."""
        data = self.recipe.data
        clips = self.list_clips(data.train)
        if data.valid:
            # Of a large split, clips from one end to the other.
            valid = self.list_clips(data.valid)
            valid = valid[:: max(1, len(valid) // data.valid_clips)][: data.valid_clips]
        else:
            clips, valid = hold_out(clips, data.valid_clips, self.recipe.run.seed)
        readable = [clip for clip in valid if self.is_readable(clip)]
        if not readable:
            raise ValueError(f"validation clips must be readable; got none of {len(valid)}, the first {valid[0].path}")
        return clips, readable

    def list_clips(self, source: str) -> list[Clip]:
        """The clips of a folder or manifest below the root; says which files are left out."""
        corpus = find_clips(Path(self.recipe.data.root) / source, self.recipe.data.min_seconds)
        for path, reason in corpus.skipped.items():
            self.name_skipped(f"{path}: {reason}")
        self.skipped_clips += len(corpus.skipped)
        return corpus.clips

    def is_readable(self, clip: Clip) -> bool:
        """Whether a validation clip can be read as far as every validation will."""
        try:
            read_audio(clip.path, self.recipe.data.valid_seconds)
        except AudioFileError as error:
            self.name_skipped(str(error))
            self.skipped_clips += 1
            return False
        return True

    def name_skipped(self, line: str) -> None:
        """Tell of a file that is left out."""
        self.say(f"skipped {line}")

    def draw_crops(self, seed: int) -> Crops:
        data = self.recipe.data
        return Crops(
            self.clips,
            self.recipe.model.sample_rate,
            self.recipe.crop_length,
            seed,
            sampling=data.sampling,
            gain_db=data.gain_db,
            speed=data.speed,
        )

    def begin(self) -> None:
        """Go on from the last checkpoint; without one, place the codebooks."""
        facts = self.facts()
        # A run that was killed before its first checkpoint starts again.
        if checkpoint := last_checkpoint(self.folder.checkpoints):
            self.restore(checkpoint)
        else:
            self.trainer.initialize(self.initial_audio())
        randomness = random_states()
        # What would fail in hours, for want of a package or of audio, fails now.
        self.validate(self.valid[:1])
        restore_random_states(randomness)
        self.tracks = Tracks(self.accelerator, self.recipe.name, first_step=self.step)
        missing = set(self.recipe.run.trackers) - {tracker.name for tracker in self.accelerator.trackers}
        if self.main and missing:
            raise ImportError(f"trackers {', '.join(missing)} must be installed: pip install 'rvq-codec[train]'")
        usage_map([1], [[1.0]], "")  # so must what draws
        if self.main:
            drop_lines_after(self.folder.log, self.step)
            drop_lines_after(self.folder.valid_log, self.step)
            self.folder.write_facts(RECIPE, asdict(self.recipe))
            self.folder.write_facts(FACTS, facts)
        self.console.print(
            f"{self.recipe.name}: {facts['parameters'] / 1e6:.1f} M parameters, {facts['hours']} h of "
            f"{facts['speakers']} speakers, {facts['processes']} x {facts['device']}, "
            f"steps {self.step} to {self.recipe.run.steps}",
            highlight=False,
            soft_wrap=True,
        )

    def initial_audio(self) -> torch.Tensor:
        """This process's share of the audio that places the codebooks: crops that the steps do not see."""
        crops = self.draw_crops(self.recipe.run.seed + 1)
        (batch,) = self.share_of(crops, self.recipe.run.initial_examples, range(1), micro_batches=1, workers=0)
        self.newly_skipped += batch.skipped
        return batch.waveforms[0].to(self.accelerator.device)

    def share_of(
        self, crops: Crops, batch_size: int, steps: range, *, micro_batches: int, workers: int
    ) -> Iterator[Batch]:
        """This process's share of the batches of some steps."""
        return batches(
            crops,
            first_step=steps.start,
            steps=steps.stop,
            batch_size=batch_size,
            micro_batches=micro_batches,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def train(self) -> None:
        """Take all steps that are left."""
        recipe, trainer = self.recipe, self.trainer
        stream = self.share_of(
            self.crops,
            recipe.data.batch_size,
            range(self.step, recipe.run.steps),
            micro_batches=recipe.run.micro_batches,
            workers=recipe.data.workers,
        )
        window = self.open_window()
        with progress_bar(self.console) as progress:
            bar = progress.add_task("train", total=recipe.run.steps, completed=self.step)
            while self.step < recipe.run.steps:
                # One step.
                start = time.perf_counter()
                batch = next(stream)
                waveforms = [part.to(self.accelerator.device, non_blocking=True) for part in batch.waveforms]
                waited = time.perf_counter() - start
                outcome = trainer.take(self.step, waveforms)
                self.step += 1
                seconds = sum(part.shape[0] * part.shape[-1] for part in waveforms) / trainer.codec.sample_rate
                told = (outcome.values, outcome.codes) if outcome.taken else ({}, outcome.codes[:0])
                window.add(*told, seconds, data_seconds=waited)
                self.newly_skipped += batch.skipped
                progress.advance(bar)

                # What it tells and leaves, now and then.
                last = self.step == recipe.run.steps
                validating = last or self.step % recipe.run.validate_every == 0
                saving = validating or self.step % recipe.run.save_every == 0
                # No line of the log spans a checkpoint, so that a resumed run writes those of an uninterrupted one.
                if saving or self.step % recipe.run.log_every == 0:
                    self.tell(window.read())
                if validating:
                    self.tell_validation(self.validate(self.valid))
                # After validation: a run that is killed while it validates does so when it is resumed.
                if saving:
                    self.save()
                    window = self.open_window()  # its clock starts anew

    def open_window(self) -> Window:
        return Window(self.trainer.codec.quantizer.codebook_sizes)

    def validate(self, clips: list[Clip]) -> Report:
        """Score the averaged weights, on all processes: a quarter, half and all of the stages."""
        codec = self.trainer.averaged.eval()
        paths = [clip.path for clip in clips]
        return evaluate(codec, paths, usual_bitrates(codec), max_seconds=self.recipe.data.valid_seconds)

    def tell(self, values: dict[str, float | list[float]]) -> None:
        """Log what happened since the last time."""
        for skipped in gather_objects(self.newly_skipped):
            for line in self.skipped_files.add(skipped):
                self.name_skipped(line)
        self.newly_skipped = []
        values |= self.trainer.learning_rates
        values |= {"skipped_steps": self.trainer.skipped_steps, "skipped_files": len(self.skipped_files)}
        self.say(f"step {self.step}  {summarize(values)}")
        if self.main:
            self.attempt("the log", append_line, self.folder.log, {"step": self.step, **values})
            self.track(self.tracks.log_window, self.step, values)

    def tell_validation(self, report: Report) -> None:
        """Log scores, give trackers something to see and hear, and export the model."""
        codec, name = self.trainer.averaged, self.recipe.run.best
        scores = {f"{codec.bitrate(row.num_quantizers):.0f} bit/s": row.scores._asdict() for row in report.rows}
        for bitrate, means in scores.items():
            numbers = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            self.say(f"step {self.step}  {bitrate}  {numbers}")
        score = report.rows[-1].scores._asdict()[name]
        better = is_better(name, score, self.best)
        if better:
            self.best = {"step": self.step, "name": name, "score": score}
        if not self.main:
            return
        self.attempt("the log", append_line, self.folder.valid_log, {"step": self.step, **scores})
        self.attempt("the model", codec.save_pretrained, self.folder.model)
        if better:
            self.attempt("the best model", codec.save_pretrained, self.folder.best_model)
        if not self.tracking:
            return
        self.track(self.tracks.log_validation, self.step, scores)
        if self.folder.log.exists() and (lines := read_lines(self.folder.log)):
            for use in ("perplexity", "entropy", "dead_share"):
                figure = usage_map(
                    [line["step"] for line in lines],
                    [line[use] for line in lines],
                    use,
                    dark_is_high=use == "dead_share",
                )
                self.track(self.tracks.log_usage_map, self.step, use, figure)
        for number, clip in enumerate(self.valid[: self.recipe.run.example_clips], start=1):
            title = f"{number}_{clip.path.stem}"
            self.track(self.tracks.log_clip, self.step, title, *self.listen(clip), codec.sample_rate)

    def track(self, log: Callable[..., object], *arguments: object) -> None:
        """Give trackers something, until they cannot take it: their files may be on a disk that is full."""
        if self.tracking:
            try:
                log(*arguments)
            except OSError as error:
                self.tracking = False
                self.say(f"step {self.step}  trackers get no more: {error}", style="red")

    def say(self, line: str, style: str | None = None) -> None:
        """Print a line on the main process, as it is."""
        self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def listen(self, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
        """A clip, and what the averaged weights make of it at the highest bitrate, [time] each."""
        codec = self.trainer.averaged
        original = load_clip(clip.path, codec.sample_rate, self.recipe.data.valid_seconds)
        with torch.inference_mode():
            codes = codec.encode(original.to(self.accelerator.device)[None, None])
            decoded = codec.decode(codes)[0, 0, : len(original)]
        return original, decoded.cpu()

    def save(self) -> None:
        """Write a checkpoint; where it cannot be, the run goes on, with those there are."""
        state = {
            "step": self.step,
            "best": self.best,
            "recipe": asdict(self.recipe),
            "audio": self.audio,
            "trainer": self.trainer.state_dict(),
            "skipped_files": self.skipped_files.files,
            "random": gather_objects(random_states()),
        }
        if self.main:
            run = self.recipe.run
            self.attempt(
                "a checkpoint",
                save_checkpoint,
                self.folder.checkpoints,
                self.step,
                state,
                keep=run.keep,
                best=self.best["step"],
            )
        self.accelerator.wait_for_everyone()

    def restore(self, checkpoint: Path) -> None:
        """Go on where a checkpoint was written."""
        state = load_checkpoint(checkpoint)
        changed = differences(state["recipe"], asdict(self.recipe))
        if others := [line for line in changed if line.startswith(ARCHITECTURE)]:
            raise ValueError(f"{checkpoint} must be of the recipe's model; the recipe is another: {'; '.join(others)}")
        try:
            self.trainer.load_state_dict(state["trainer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{checkpoint} must be of the recipe's model; {'; '.join(changed) or error}") from error
        if state["audio"] != self.audio:
            changed.append("the audio: from here on crops are others than they would have been")
        for line in changed:
            self.say(f"changed since the checkpoint: {line}")
        self.step = state["step"]
        self.best = state["best"] if state["best"]["name"] == self.recipe.run.best else NO_VALIDATION
        self.skipped_files = SkipList(state["skipped_files"])
        if self.accelerator.process_index < len(state["random"]):
            restore_random_states(state["random"][self.accelerator.process_index])

    def audio_digest(self) -> str:
        """Tells one list of clips from another: crops are drawn from it by their place."""
        clips = [(clip.path.name, clip.seconds, clip.speaker) for clip in self.clips]
        return hashlib.sha256(json.dumps(clips).encode()).hexdigest()

    def attempt(self, what: str, write: Callable[..., object], *arguments: object, **options: object) -> object:
        """Write something, and give what that gave; a disk that is full is no reason to lose the run."""
        try:
            return write(*arguments, **options)
        except OSError as error:
            self.say(f"step {self.step}  {what} could not be written: {error}", style="red")
            return None

    def facts(self) -> dict[str, Any]:
        """What a reader of the run would ask."""
        return {
            "name": self.recipe.name,
            "parameters": sum(parameter.numel() for parameter in self.trainer.codec.parameters()),
            "hours": round(sum(clip.seconds for clip in self.clips) / 3600, 2),
            "clips": len(self.clips),
            "skipped_clips": self.skipped_clips,
            "speakers": len({clip.speaker for clip in self.clips}),
            "validation_clips": len(self.valid),
            "processes": self.accelerator.num_processes,
            "device": device_name(self.accelerator.device),
            "precision": self.accelerator.mixed_precision,
            "torch": torch.__version__,
        }

    def end(self) -> None:
        """Close the trackers, and write the report."""
        for tracker in self.accelerator.trackers if self.main else ():
            self.attempt("the last of a tracker", tracker.finish)
        PartialState().destroy_process_group()
        if self.main and self.folder.log.exists() and read_lines(self.folder.log):
            self.say(f"report: {self.attempt('the report', write_page, self.folder.path)}")


def is_better(name: str, score: float, best: dict[str, Any]) -> bool:
    """Whether a score beats the best so far; of the mel distance, less is better. One that is not known does not."""
    if math.isnan(score) or math.isnan(best["score"]):
        return not math.isnan(score)
    return score < best["score"] if name == "mel_distance" else score > best["score"]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    main()
