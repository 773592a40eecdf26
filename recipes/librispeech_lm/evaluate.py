"""What a language model of codes learned, as tables in Markdown.

python recipes/librispeech_lm/evaluate.py runs/librispeech_lm/best_model --data tokens
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from codec.evaluate import markdown_table, mel_distance
from codec.lm.loss import score, to_score
from codec.lm.model import CodeLM
from codec.lm.sample import Sampling, generate, generate_all
from codec.lm.windows import CodesSequences
from codec.model import Codec
from codec.quantize.usage import count_codes, perplexity
from codec.train.shell import one_line

# Clips that are continued and decoded at once.
BATCH_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lm", type=Path, help="folder of a language model")
    parser.add_argument("--data", type=Path, default=Path("tokens"), help="folder of the tokenized corpora")
    parser.add_argument("--train", default="train", help="the corpus that it learned from")
    parser.add_argument("--valid", default="valid", help="the corpus to judge it by")
    parser.add_argument("--model", default="speech_16khz", help="the codec")
    parser.add_argument("--prompt-seconds", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each continuation")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=64, help="at most so many are continued")
    arguments = parser.parse_args()
    with one_line(ValueError, OSError, ImportError), torch.inference_mode():
        evaluate(arguments)


def evaluate(arguments: argparse.Namespace) -> None:
    lm, codec = CodeLM.from_pretrained(arguments.lm), Codec.from_pretrained(arguments.model).eval()
    lm.check_codec(codec)
    sampling = Sampling(arguments.temperature, top_p=arguments.top_p)
    prompt, length = (round(each * codec.frame_rate) for each in (arguments.prompt_seconds, arguments.seconds))
    if min(prompt, length) < 1:
        raise ValueError(f"prompts and continuations must have a frame at least; got {prompt} and {length}")
    train, valid = (read_corpus(lm, arguments.data / each) for each in (arguments.train, arguments.valid))
    counts = counts_of(train)
    print(bits_table(lm, codec, counts, valid), flush=True)
    clips = [codes[:, : prompt + length] for codes in codes_of(valid) if codes.shape[1] >= prompt + length]
    if len(clips) < 2:
        raise ValueError(f"{arguments.valid} must have at least 2 clips of {prompt + length} frames; got {len(clips)}")
    real = torch.stack(clips[: arguments.clips])
    begun = real[..., :prompt]
    random = torch.Generator().manual_seed(arguments.seed)
    samples = [
        torch.stack(
            generate_all(generate(lm, part, max_frames=length, may_end=False, sampling=sampling, generator=random))
        )
        for part in begun.split(BATCH_SIZE)
    ]
    by_lm = torch.cat([begun, torch.cat(samples)], dim=-1)
    by_chance = torch.cat([begun, draw_each(counts, len(real), length, random)], dim=-1)
    print(continuation_table(codec, real, by_lm, by_chance, prompt))


def read_corpus(lm: CodeLM, folder: Path) -> CodesSequences:
    """The sequences of a corpus as the language model has them."""
    sequences = CodesSequences(folder, lm.tokenizer.num_quantizers, lm.tokenizer.pattern)
    told = sequences.tokenizer.fingerprint, lm.tokenizer.fingerprint
    if None not in told and told[0] != told[1]:
        raise ValueError(
            f"{folder} must hold codes of the codec that the language model learned; got those of {told[0]}"
        )
    if not len(sequences.num_steps):
        raise ValueError(f"{folder} must hold clips; it has none")
    return sequences


def codes_of(corpus: CodesSequences) -> Iterator[Tensor]:
    """Codes of each clip, [num_quantizers, frames]."""
    return (corpus.codes(index) for index in range(len(corpus.num_steps)))


def counts_of(corpus: CodesSequences) -> Tensor:
    """How often each code occurs, [num_quantizers, codebook_size]."""
    return count_codes(torch.cat(list(codes_of(corpus)), dim=-1)[None], corpus.tokenizer.codebook_size)


def bits_table(lm: CodeLM, codec: Codec, learned: Tensor, valid: CodesSequences) -> str:
    """Bits per second of audio: what codes take without a model, with tables of a small context, and with the model.

    Args:
        lm: The language model.
        codec: The codec.
        learned: How often each code occurs in the training data, [num_quantizers, codebook_size].
        valid: What to judge by.
    """
    rate = codec.frame_rate
    told = to_score(score(lm, valid, range(len(valid.num_steps))), len(valid.num_steps), rate)
    counts = counts_of(valid)
    frames = counts[0].sum()
    chances = (learned + 0.5) / (learned + 0.5).sum(-1, keepdim=True)
    entropy = perplexity(counts).log2() * rate
    rows = {
        "packed": torch.full_like(entropy, codec.bits_per_code * rate),
        "as often as in the training data": -(counts * chances.log2()).sum(-1) / frames * rate,
        "as often as in this very audio: the entropy": entropy,
    }
    if codec.entropy is not None:
        bits = sum(codec.entropy.bits(codes[None].numpy()) for codes in codes_of(valid))
        rows["tables of entropy coding"] = torch.as_tensor(bits) / frames * rate
    rows["language model"] = torch.tensor(told.bits_by_stage)
    table = markdown_table(
        ["bit/s of audio", *(f"stage {stage + 1}" for stage in range(len(counts))), "all"],
        ([name, *(f"{value:.1f}" for value in (*values, values.sum()))] for name, values in rows.items()),
    )
    gain = 100 * (told.bits_per_second / float(entropy.sum()) - 1)
    return (
        f"{told.seconds:.0f} s of audio, {told.nats:.3f} nats per token\n\n{table}\n\n"
        f"Beside the entropy of the codes, the language model takes {gain:+.1f} %.\n"
    )


def draw_each(counts: Tensor, clips: int, frames: int, random: torch.Generator) -> Tensor:
    """Codes drawn one by one, each as often as it occurs, [clips, num_quantizers, frames]."""
    drawn = counts.double().multinomial(clips * frames, replacement=True, generator=random)
    return drawn.view(-1, clips, frames).transpose(0, 1)


def continuation_table(codec: Codec, real: Tensor, by_lm: Tensor, by_chance: Tensor, prompt: int) -> str:
    """Continuations beside the real ones: how far they sound from them, how likely they are, how many codes they use.

    How likely is told by the codec's tables for entropy coding, which know a code before and those below, and which the
    language model has never seen: what does not move as speech does takes more bits.

    Args:
        codec: The codec.
        real: Codes of real speech, [clips, num_quantizers, frames].
        by_lm: The same prompts, continued by the language model.
        by_chance: The same prompts, continued by codes drawn one by one.
        prompt: Frames of the prompts.
    """
    rest = slice(prompt * codec.hop_length, None)

    def decode(codes: Tensor) -> Tensor:
        return torch.cat([codec.decode(part)[:, 0, rest] for part in codes.split(BATCH_SIZE)])

    truth = decode(real)

    def distance(codes: Tensor) -> float:
        pairs = zip(truth, decode(codes), strict=True)
        return sum(mel_distance(*pair, codec.sample_rate) for pair in pairs) / len(truth)

    def surprise(codes: Tensor) -> float:
        if codec.entropy is None:
            return math.nan
        return sum(float(codec.entropy.bits(each[None, :, prompt:].numpy()).sum()) for each in codes) / (
            codes[..., prompt:].numel()
        )

    others = torch.cat([real[..., :prompt], real.roll(1, 0)[..., prompt:]], dim=-1)
    seconds = [frames / codec.frame_rate for frames in (prompt, real.shape[-1] - prompt)]
    continuations = {
        "real": real,
        "real, of another clip": others,
        "language model": by_lm,
        "codes drawn one by one": by_chance,
    }
    rows = []
    for name, codes in continuations.items():
        used = perplexity(count_codes(codes[..., prompt:], codec.codebook_size))
        rows.append([name, f"{distance(codes):.2f}", f"{surprise(codes):.2f}", *(f"{each:.0f}" for each in used)])
    headings = [
        "continuation",
        "mel distance to the real one, dB",
        "bits per code by the codec's tables",
        *(f"perplexity of stage {stage + 1}" for stage in range(real.shape[1])),
    ]
    return (
        f"{len(real)} continuations of {seconds[1]:g} s after prompts of {seconds[0]:g} s\n\n"
        f"{markdown_table(headings, rows)}"
    )


if __name__ == "__main__":
    main()
