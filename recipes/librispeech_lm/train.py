"""Train a language model of codes by a recipe, on corpora that `codec tokenize` made.

accelerate launch recipes/librispeech_lm/train.py recipes/librispeech_lm/small.toml --data tokens
"""

import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from rich.console import Console

from codec.distributed import gather_objects, sum_over_ranks
from codec.tokens import CodecTokenizer
from codec.train.accelerator import start_accelerator
from codec.train.batches import share_size
from codec.train.checkpoint import (
    differences,
    last_checkpoint,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from codec.train.folder import RunFolder
from codec.train.launch import start_missing_processes
from codec.train.log import append_line, drop_lines_after
from codec.train.schedule import cosine_with_warmup
from codec.train.shell import one_line, parse_arguments, progress_bar

# They say which packages are missing.
with one_line(ImportError):
    from codec.lm.loss import Score, StageLoss, StageSums, score, to_score
    from codec.lm.model import build_lm
    from codec.lm.recipe import LMRecipe, load_lm_recipe
    from codec.lm.windows import Windows, open_sequences

# What tokenizers must agree in for their ids to mean the same.
SAME_TOKENS = ("fingerprint", "num_quantizers", "codebook_size", "pattern", "shared", "extras")


def main() -> None:
    start_missing_processes()
    arguments = parse_arguments("Train a language model of codes by a recipe.", data="the tokenized corpora")
    with ExitStack() as claim:
        with one_line(ValueError, OSError, ImportError):
            recipe = load_lm_recipe(arguments.recipe, arguments.set)
            folder = RunFolder(arguments.output or Path("runs") / recipe.name)
            folder.check(arguments.resume)
            run = Run(recipe, folder, start_accelerator(recipe.run.mixed_precision, recipe.run.trackers, folder.path))
            if run.main:
                claim.enter_context(folder.claimed(arguments.resume))
            run.begin()
        with one_line(FloatingPointError, OSError):
            run.train()
            run.end()


class Run:
    """A training run, from its recipe to the model.

    Args:
        recipe: Says everything about it.
        folder: Where it leaves everything.
        accelerator: Gives device, precision, ranks and trackers.
    """

    def __init__(self, recipe: LMRecipe, folder: RunFolder, accelerator: Accelerator):
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.main = accelerator.is_main_process
        self.console = Console(quiet=not self.main)
        self.share = share_size(recipe.data.batch_size, world_size=accelerator.num_processes, name="data.batch_size")
        self.train_sequences = open_sequences(recipe.data, recipe.data.train)
        self.valid_sequences = open_sequences(recipe.data, recipe.data.valid)
        self.tokenizer = self.train_sequences.tokenizer
        self.check_corpora()
        self.corpus = self.describe_corpus()
        self.windows = Windows(self.train_sequences, recipe.data.window_steps, recipe.run.seed)
        # Weights are equal on all ranks; what each draws afterwards, for dropout, is its own.
        set_seed(recipe.run.seed)
        self.lm = build_lm(recipe.model, self.tokenizer)
        set_seed(recipe.run.seed, device_specific=True)
        self.optimizer = torch.optim.AdamW(self.parameter_groups(), betas=recipe.optimizer.betas)
        self.network, self.optimizer = accelerator.prepare(StageLoss(self.lm), self.optimizer)
        self.step = 0
        self.best: dict[str, Any] = {"step": 0, "nats": math.inf}

    def check_corpora(self) -> None:
        """Refuse what would fail in an hour."""
        data, model = self.recipe.data, self.recipe.model
        both = self.tokenizer, self.valid_sequences.tokenizer
        told = {name: [getattr(each, name) for each in both] for name in SAME_TOKENS}
        if others := [f"{name} {first} and {second}" for name, (first, second) in told.items() if first != second]:
            raise ValueError(f"data.train and data.valid must be tokenized alike; got {', '.join(others)}")
        if data.window_steps > model.max_steps:
            raise ValueError(
                f"model.max_steps must be at least data.window_steps {data.window_steps}; got {model.max_steps}"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Norms are not decayed."""
        settings = self.recipe.optimizer
        matrices = [each for each in self.lm.parameters() if each.ndim > 1]
        others = [each for each in self.lm.parameters() if each.ndim <= 1]
        return [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def begin(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        if checkpoint := last_checkpoint(self.folder.checkpoints):
            self.restore(checkpoint)
        self.accelerator.init_trackers(self.recipe.name, init_kwargs={"tensorboard": {"purge_step": self.step + 1}})
        missing = set(self.recipe.run.trackers) - {tracker.name for tracker in self.accelerator.trackers}
        if self.main and missing:
            raise ImportError(f"trackers {', '.join(missing)} must be installed: pip install 'rvq-codec[lm]'")
        facts = self.facts()
        if self.main:
            drop_lines_after(self.folder.log, self.step)
            drop_lines_after(self.folder.valid_log, self.step)
            self.folder.write_facts("recipe.json", asdict(self.recipe))
            self.folder.write_facts("run.json", facts)
        self.say(
            f"{self.recipe.name}: {facts['parameters'] / 1e6:.1f} M parameters, {facts['steps_of_corpus']} steps of "
            f"{facts['clips']} clips, {facts['processes']} x {self.accelerator.device.type}, "
            f"steps {self.step} to {self.recipe.run.steps}"
        )

    def train(self) -> None:
        """Take all steps that are left."""
        recipe, run = self.recipe, self.recipe.run
        batches = self.windows.batches(
            self.step,
            run.steps,
            self.share,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        window = LossWindow(self.tokenizer, self.accelerator.device)
        with progress_bar(self.console) as progress:
            bar = progress.add_task("train", total=run.steps, completed=self.step)
            for ids, allowances in batches:
                # One step.
                self.network.train()
                rate = self.set_learning_rate()
                sums = self.network(ids.to(self.accelerator.device), allowances.to(self.accelerator.device))
                # The mean over the tokens of all ranks: DistributedDataParallel takes the mean of their gradients.
                (tokens,) = sum_over_ranks(sums.tokens.sum())
                self.accelerator.backward(sums.nats.sum() * self.accelerator.num_processes / tokens)
                norm = self.accelerator.clip_grad_norm_(self.lm.parameters(), recipe.optimizer.max_gradient_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.step += 1
                window.add(sums)
                progress.advance(bar)

                # What it tells and leaves, now and then.
                last = self.step == run.steps
                validating = last or self.step % run.validate_every == 0
                saving = validating or self.step % run.save_every == 0
                if saving or self.step % run.log_every == 0:
                    self.tell({**window.read(), "gradient_norm": float(norm), "learning_rate": rate})
                if validating:
                    self.tell_validation(self.validate())
                if saving:
                    self.save()
                    window.restart_clock()

    def set_learning_rate(self) -> float:
        settings = self.recipe.optimizer
        factor = cosine_with_warmup(self.step, settings.warmup_steps, self.recipe.run.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        return settings.learning_rate * factor

    def validate(self) -> Score:
        """Score all validation clips, each process its share."""
        self.lm.eval()
        clips = len(self.valid_sequences.num_steps)
        share = range(self.accelerator.process_index, clips, self.accelerator.num_processes)
        with self.accelerator.autocast():
            sums = score(self.lm, self.valid_sequences, share)
        # Not every device has float64.
        sums = StageSums(*(each.to(self.accelerator.device, torch.float32) for each in sums))
        return to_score(StageSums(*sum_over_ranks(*sums)), clips, self.tokenizer.frame_rate)

    def tell(self, values: dict[str, Any]) -> None:
        """Log what happened since the last time."""
        # The last gradient is in the weights, but not yet in the loss.
        if not math.isfinite(values["nats"]) or not math.isfinite(values["gradient_norm"]):
            raise FloatingPointError(
                f"loss and gradient must be finite; got {values['nats']} and {values['gradient_norm']} up to step "
                f"{self.step}; lower optimizer.learning_rate"
            )
        self.say(f"step {self.step}  nats {values['nats']:.3f}  {values['steps_per_second']:.0f} sequence steps/s")
        if self.main:
            append_line(self.folder.log, {"step": self.step, **values})
            self.track("train", values)

    def tell_validation(self, validation: Score) -> None:
        """Log a validation, and export the model if it is the best."""
        stages = " ".join(f"{bits:.0f}" for bits in validation.bits_by_stage)
        self.say(
            f"step {self.step}  validation: {validation.nats:.3f} nats/token, "
            f"{validation.bits_per_second:.1f} bit/s of audio, by stage {stages}"
        )
        better = validation.nats < self.best["nats"]
        if better:
            self.best = {"step": self.step, "nats": validation.nats}
        if self.main:
            append_line(self.folder.valid_log, {"step": self.step, **validation._asdict()})
            self.track("valid", validation._asdict())
            for model in [self.folder.model, *([self.folder.best_model] if better else [])]:
                self.lm.save_pretrained(model)

    def track(self, group: str, values: dict[str, Any]) -> None:
        """Give trackers numbers, and of what each stage has, a curve for each."""
        scalars = {}
        for name, value in values.items():
            if isinstance(value, list):
                scalars |= {f"{group}/{name}/stage_{stage:02d}": each for stage, each in enumerate(value, start=1)}
            else:
                scalars[f"{group}/{name}"] = value
        self.accelerator.log(scalars, self.step)

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def save(self) -> None:
        """Write a checkpoint; all ranks wait for it."""
        randomness = gather_objects(random_states())
        if self.main:
            state = {
                "step": self.step,
                "recipe": asdict(self.recipe),
                "corpus": self.corpus,
                "lm": self.lm.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "random": randomness,
            }
            save_checkpoint(self.folder.checkpoints, self.step, state, keep=self.recipe.run.keep)
        self.accelerator.wait_for_everyone()

    def restore(self, checkpoint: Path) -> None:
        """Go on where a checkpoint was written."""
        state = load_checkpoint(checkpoint)
        changed = differences(state["recipe"], asdict(self.recipe))
        if others := differences(state["corpus"]["tokenizer"], self.corpus["tokenizer"], "tokenizer."):
            raise ValueError(f"{checkpoint} must be of the recipe's tokens; they are others: {'; '.join(others)}")
        changed += differences(state["corpus"], self.corpus, "corpus.")
        try:
            self.lm.load_state_dict(state["lm"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{checkpoint} must be of the recipe's model; {'; '.join(changed) or error}") from error
        for line in changed:
            self.say(f"changed since the checkpoint: {line}")
        self.step, self.best = state["step"], state["best"]
        if self.accelerator.process_index < len(state["random"]):
            restore_random_states(state["random"][self.accelerator.process_index])

    def describe_corpus(self) -> dict[str, Any]:
        """Tells one training corpus from another: windows are drawn from it by their place."""
        tokenizer, steps = self.tokenizer, self.train_sequences.num_steps
        return {
            "clips": len(steps),
            "steps": int(steps.sum()),
            "tokenizer": {name: getattr(tokenizer, name) for name in SAME_TOKENS},
        }

    def facts(self) -> dict[str, Any]:
        """What a reader of the run would ask."""
        return {
            "name": self.recipe.name,
            "parameters": sum(parameter.numel() for parameter in self.lm.parameters()),
            "clips": self.corpus["clips"],
            "steps_of_corpus": self.corpus["steps"],
            "pattern": self.tokenizer.pattern,
            "num_quantizers": self.tokenizer.num_quantizers,
            "codec": self.tokenizer.model,
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "torch": torch.__version__,
        }

    def end(self) -> None:
        """Close the trackers."""
        self.accelerator.end_training()
        PartialState().destroy_process_group()
        self.say(f"model: {self.folder.model}; the best, of step {self.best['step']}: {self.folder.best_model}")


class LossWindow:
    """Sums over the steps since the last line of the log.

    Args:
        tokenizer: Of the sequences.
        device: Of the sums.
    """

    def __init__(self, tokenizer: CodecTokenizer, device: torch.device):
        self.stages, self.width, self.device = tokenizer.num_quantizers, tokenizer.width, device
        self.reset()

    def reset(self) -> None:
        self.nats = torch.zeros(self.stages, device=self.device)
        self.tokens = torch.zeros(self.stages, device=self.device)
        self.restart_clock()

    def restart_clock(self) -> None:
        self.start = time.monotonic()

    def add(self, sums: StageSums) -> None:
        self.nats += sums.nats.detach()
        self.tokens += sums.tokens

    def read(self) -> dict[str, Any]:
        """Nats per token and throughput, of all ranks; every rank must ask."""
        nats, tokens = sum_over_ranks(self.nats, self.tokens)
        elapsed = time.monotonic() - self.start
        values = {
            "nats": float(nats.sum() / tokens.sum()),
            "nats_by_stage": (nats / tokens).tolist(),
            "steps_per_second": float(tokens.sum()) / self.width / elapsed,
        }
        self.reset()
        return values


if __name__ == "__main__":
    main()
