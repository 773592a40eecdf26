"""What a language model of codes minimizes, and what its validation tells."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.lm.model import CodeLM
from codec.lm.windows import NOWHERE, Example, Sequences, example_of


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
    rule out is not sampled either. So a place where one token alone is legal costs nothing, and logits are computed
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
    """Sums over some whole sequences of a corpus; of one beyond the model's context, see `spans`.

    Args:
        lm: In eval mode.
        sequences: The corpus.
        indices: Which of them: each rank takes its share.

    Returns:
        On the CPU, float64.
    """
    stages = lm.tokenizer.num_quantizers
    nats, tokens = torch.zeros(2, stages, dtype=torch.float64)
    for index in indices:
        for span in spans(example_of(sequences, index), lm.max_steps, lm.tokenizer.steps_per_frame or 1):
            sums = stage_sums(lm, Example(*(part[None].to(lm.device) for part in span)))
            nats += sums.nats.cpu()
            tokens += sums.tokens.cpu()
    return StageSums(nats, tokens)


def spans(example: Example, max_steps: int, stride: int) -> Iterator[Example]:
    """Cut a sequence into parts that overlap by about a half, so that each step has what comes before it.

    Args:
        example: Not a batch, [width, steps].
        max_steps: Of a part; more than `stride`.
        stride: Steps of a frame: parts begin where one does.

    Yields:
        Parts, in which the allowances of steps that an earlier part has are NOWHERE: each counts once.
    """
    length = example.ids.shape[1]
    begin = counted = end = 0
    while end < length:
        end = min(begin + max_steps, length)
        allowances = example.allowances[:, begin:end].clone()
        allowances[:, : counted - begin] = NOWHERE
        yield Example(example.ids[:, begin:end], allowances)
        counted = end
        half = 1 + (end - max_steps // 2 - 1) // stride * stride
        begin = max(half, begin + stride if begin else 1)


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
