"""What a corpus consists of, and how a part of it is held out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Clip:
    """One audio file of a corpus, of any sample rate and channel count.

    Attributes:
        path: Where it is.
        seconds: How long it is.
        speaker: Who speaks; "" if nobody knows.
        id: What its corpus calls it; "" if nothing.
        transcript: What is said; "" if nobody knows.
    """

    path: Path
    seconds: float
    speaker: str = ""
    id: str = ""
    transcript: str = ""


def hold_out(clips: list[Clip], count: int, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Split a corpus that comes without a validation split.

    With at least `4 * count` known speakers, one clip of each of `count` speakers is held out, and the rest of what
    they say is left out of both parts: the validation speakers are strangers to the model. With fewer, `count` clips
    are held out, or a fifth of them if that is less.

    Args:
        clips: The corpus, in any order.
        count: Clips to hold out.
        seed: Which ones.

    Returns:
        Clips to train on, and clips to validate on, each in the order of their paths.

    Raises:
        ValueError: `count` is not positive, or there are fewer than five clips.
    """
    if count < 1:
        raise ValueError(f"count must be positive; got {count}")
    if len(clips) < 5:
        raise ValueError(f"clips must be at least 5 for some of them to be held out; got {len(clips)}")
    random = np.random.default_rng(seed)
    ordered = sorted(clips, key=lambda clip: clip.path)
    speakers = sorted({clip.speaker for clip in ordered if clip.speaker})
    if len(speakers) < 4 * count:
        chosen = random.permutation(len(ordered))[: min(count, len(ordered) // 5)].tolist()
        held_out = [ordered[index] for index in chosen]
        train = [clip for clip in ordered if clip not in held_out]
    else:
        strangers = [speakers[index] for index in random.permutation(len(speakers))[:count].tolist()]
        spoken = [[clip for clip in ordered if clip.speaker == stranger] for stranger in strangers]
        held_out = [of_one[random.integers(len(of_one))] for of_one in spoken]
        train = [clip for clip in ordered if clip.speaker not in strangers]
    return train, sorted(held_out, key=lambda clip: clip.path)
