"""Random crops of a corpus: what a training run sees."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from codec.audio import AudioFileError, read_excerpt
from codec.choose import choose
from codec.corpora.clip import Clip

# So many files in a row that cannot be read are no accident: a disk that is gone, a manifest of another machine.
MAX_FAILURES = 100


class NoAudioError(Exception):
    """Many files in a row could not be read."""


class Crop(NamedTuple):
    """A training example.

    Attributes:
        waveform: [1, crop_length], float32.
        skipped: Path and reason of each file that was drawn first and could not be read.
    """

    waveform: Tensor
    skipped: tuple[tuple[str, str], ...]


class Group(NamedTuple):
    """Clips that a sampling draws from once it has chosen the group, each as likely as it is heavy.

    Attributes:
        clips: One or more.
        ends: Cumulative sum of their weights.
    """

    clips: Sequence[Clip]
    ends: np.ndarray

    def draw(self, random: np.random.Generator) -> Clip:
        """Draw a clip."""
        return self.clips[np.searchsorted(self.ends, random.uniform(0, self.ends[-1]), side="right")]


def by_speaker(clips: Sequence[Clip]) -> list[Group]:
    """A speaker uniformly, then a place in all that the speaker says."""
    spoken: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        spoken[clip.speaker].append(clip)
    return [group for of_one in spoken.values() for group in by_duration(of_one)]


def by_duration(clips: Sequence[Clip]) -> list[Group]:
    """A place in all the audio."""
    return [Group(clips, np.cumsum([clip.seconds for clip in clips]))]


def uniformly(clips: Sequence[Clip]) -> list[Group]:
    """A clip, whether it is long or short, then a place in it."""
    return [Group(clips, np.arange(1.0, len(clips) + 1))]


# Each turns a corpus into groups, of which one is drawn uniformly.
SAMPLINGS: dict[str, Callable[[Sequence[Clip]], list[Group]]] = {
    "speaker": by_speaker,
    "duration": by_duration,
    "uniform": uniformly,
}


class Crops(Dataset[Crop]):
    """Random crops, without end.

    A crop depends on the seed and its index alone, so a run that is resumed at an index sees what it would have seen,
    in any number of processes. Files are opened when a crop needs them, and no more of them is decoded than it takes;
    one that cannot be read is skipped, and another one drawn.

    Args:
        clips: The corpus, of any sample rates and channel counts: channels are averaged.
        sample_rate: Of the crops, Hz.
        crop_length: Samples of a crop; a shorter clip is followed by silence.
        seed: Which crops.
        sampling: "speaker", "duration" or "uniform": which clips are drawn how often.
        gain_db: Range of a random gain, dB: the model meets speech at levels that the corpus lacks. Nothing is clipped.
        speed: Range of a random speed, a factor: 1.1 is a tenth faster and higher. Drawn in whole per cent.

    Raises:
        ValueError: There are no clips, or a range, rate or length that makes no sense.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        sample_rate: int,
        crop_length: int,
        seed: int,
        *,
        sampling: str = "speaker",
        gain_db: tuple[float, float] = (0.0, 0.0),
        speed: tuple[float, float] = (1.0, 1.0),
    ):
        if not clips:
            raise ValueError("clips must be one or more; got none")
        if min(sample_rate, crop_length) < 1:
            raise ValueError(f"sample_rate and crop_length must be positive; got {sample_rate} and {crop_length}")
        if not gain_db[0] <= gain_db[1]:
            raise ValueError(f"gain_db must go from low to high; got {gain_db}")
        self._slowest, self._fastest = (round(100 * factor) for factor in speed)
        if not 1 <= self._slowest <= self._fastest:
            raise ValueError(f"speed must go from low to high, at least 0.01; got {speed}")
        self.sample_rate = sample_rate
        self.crop_length = crop_length
        self.seed = seed
        self.gain_db = gain_db
        self._groups = choose(SAMPLINGS, sampling, "sampling")(clips)

    def __getitem__(self, index: int) -> Crop:
        """Crop number `index`.

        Raises:
            IndexError: `index` is negative.
            NoAudioError: 100 files in a row could not be read.
        """
        if index < 0:
            raise IndexError(f"index must not be negative; got {index}")
        random = np.random.default_rng((self.seed, index))
        gain = 10 ** (random.uniform(*self.gain_db) / 20)
        speed_percent = int(random.integers(self._slowest, self._fastest, endpoint=True))
        skipped: list[tuple[str, str]] = []
        while len(skipped) < MAX_FAILURES:
            clip = self._groups[random.integers(len(self._groups))].draw(random)
            try:
                waveform = read_excerpt(clip.path, random.random(), self.crop_length, self.sample_rate, speed_percent)
            except AudioFileError as error:
                skipped.append((str(clip.path), str(error).removeprefix(f"{clip.path}: ")))
            else:
                return Crop(gain * waveform, tuple(skipped))
        path, reason = skipped[-1]
        raise NoAudioError(f"audio must be readable; {MAX_FAILURES} files in a row were not, the last {path}: {reason}")
