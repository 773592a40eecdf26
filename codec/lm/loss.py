"""What a language model of codes minimizes, and what its validation tells."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.lm.model import CodeLM
from codec.lm.windows import Example, Sequences, example_of


class StageSums(NamedTuple):
    """Negative log-likelihood of tokens; both [num_quantizers], of each stage.

    Attributes:
        nats: Summed. That of the token which ends a sequence counts for stage 0, in whose place it stands.
        tokens: How many.
    """

    nats: Tensor
    tokens: Tensor


def stage_sums(lm: CodeLM, example: Example) -> StageSums:
    """Negative log-likelihood of all tokens but those of the first step, each given the steps before it.

    Probability is spread over the tokens that are legal in a place, and over no others: what the tokenizer's allowances
    rules out is not sampled either. So a place where one token alone is legal costs nothing, and logits are computed
    for the codes of one stage in each place, not for the whole vocabulary.

    Args:
        lm: The model.
        example: A batch, [batch, width, steps] each.
    """
    tokenizer = lm.tokenizer
    hidden = lm.hidden(example.ids[..., :-1])
    targets, allowances = example.ids[..., 1:], example.allowances[..., 1:]
    nats = []
    for stage in range(tokenizer.num_quantizers):
        legal = tokenizer.allowances[stage].to(targets.device)
        # Ids -> their places among the legal ones.
        place = legal.cumsum(0) - 1
        batch, row, step = torch.where(allowances == stage)
        logits = F.linear(hidden[batch, step], lm.transformer.lm_head.weight[legal])
        nats.append(F.cross_entropy(logits.float(), place[targets[batch, row, step]], reduction="sum"))
    counts = torch.stack([(allowances == stage).sum() for stage in range(tokenizer.num_quantizers)])
    return StageSums(torch.stack(nats), counts)


class StageLoss(nn.Module):
    """`stage_sums` as a network, for what wraps networks: `DistributedDataParallel` sees no other calls than these.

    Args:
        lm: The model.
    """

    def __init__(self, lm: CodeLM):
        super().__init__()
        self.lm = lm

    def forward(self, ids: Tensor, allowances: Tensor) -> StageSums:
        """Sums over a batch, [batch, width, steps] both; see `stage_sums`."""
        return stage_sums(self.lm, Example(ids, allowances))


class Score(NamedTuple):
    """How well a model predicts whole sequences.

    Attributes:
        nats_by_stage: Nats per token of each stage.
        nats: Nats per token.
        bits_by_stage: Bits per second of audio of each stage.
        bits_per_second: Of all: what the audio would take, coded with the model's probabilities. Not a number where the
            frame rate is not known.
        seconds: Of audio.
    """

    nats_by_stage: list[float]
    nats: float
    bits_by_stage: list[float]
    bits_per_second: float
    seconds: float


@torch.inference_mode()
def score(lm: CodeLM, sequences: Sequences, indices: range) -> StageSums:
    """Sums over some whole sequences of a corpus.

    Args:
        lm: In eval mode.
        sequences: The corpus.
        indices: Which of them: each rank takes its share.

    Raises:
        ValueError: A sequence is longer than the model can be asked about.
    """
    stages = lm.tokenizer.num_quantizers
    nats = torch.zeros(stages, dtype=torch.float64, device=lm.device)
    tokens = torch.zeros(stages, dtype=torch.float64, device=lm.device)
    for index in indices:
        example = example_of(sequences, index)
        if example.ids.shape[1] > lm.max_steps:
            raise ValueError(f"sequences must have at most {lm.max_steps} steps; got {example.ids.shape[1]}")
        sums = stage_sums(lm, Example(*(part[None].to(lm.device) for part in example)))
        nats += sums.nats
        tokens += sums.tokens
    return StageSums(nats, tokens)


def to_score(sums: StageSums, clips: int, frame_rate: float | None) -> Score:
    """Means from the sums over all ranks.

    Args:
        sums: Of whole sequences.
        clips: How many: each has one token, that which ends it, beside its codes.
        frame_rate: Of the codec, frames per second.
    """
    # Every frame has a code of each stage; of the last stage there is nothing else.
    frames = float(sums.tokens.sum() - clips) / len(sums.tokens)
    seconds = frames / frame_rate if frame_rate else math.nan
    bits = sums.nats / math.log(2) / seconds
    return Score(
        (sums.nats / sums.tokens).tolist(),
        float(sums.nats.sum() / sums.tokens.sum()),
        bits.tolist(),
        float(bits.sum()),
        seconds,
    )
