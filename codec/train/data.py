"""Training audio: random crops of a corpus, drawn speaker by speaker."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Clip:
    """One audio file.

    Attributes:
        path: Where it is.
        speaker: Who speaks.
        num_samples: Its length.
        sample_rate: Hz.
    """

    path: Path
    speaker: str
    num_samples: int
    sample_rate: int


def find_librispeech(root: str | Path, split: str) -> list[Clip]:
    """The clips of a LibriSpeech split, in the corpus's own layout SPLIT/SPEAKER/CHAPTER/*.flac.

    Args:
        root: Folder that holds the splits.
        split: For example "train-clean-100". Transcripts are not needed.

    Returns:
        In the order of their paths, so that it is the same on every machine.

    Raises:
        ValueError: No clips are there, or one that cannot be read or has several channels.
    """
    folder = Path(root) / split
    paths = sorted(folder.glob("*/*/*.flac"))
    if not paths:
        raise ValueError(f"{folder} must hold SPEAKER/CHAPTER/*.flac; found none")
    return [_describe(path, speaker=path.parts[-3]) for path in paths]


def _describe(path: Path, speaker: str) -> Clip:
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} must be audio that can be read; {error.error_string}") from None
    if info.channels != 1:
        raise ValueError(f"{path} must have one channel; got {info.channels}")
    return Clip(path, speaker, info.frames, info.samplerate)


class SpeakerCrops(Dataset[Tensor]):
    """Random crops: a speaker uniformly, then a place in all that the speaker says.

    A crop depends on the seed and its index alone, so a run that is resumed at an index sees what it would have seen,
    in any number of processes.

    Args:
        clips: The corpus.
        crop_length: Samples of a crop; a shorter clip is followed by silence.
        num_crops: How many crops there are.
        seed: Which ones.
        gain_db: Range of a random gain, dB: the model meets speech at levels that the corpus lacks.

    Raises:
        ValueError: There are no clips, or clips of several sample rates.
    """

    def __init__(
        self,
        clips: list[Clip],
        crop_length: int,
        num_crops: int,
        seed: int,
        gain_db: tuple[float, float] = (0.0, 0.0),
    ):
        rates = sorted({clip.sample_rate for clip in clips})
        if len(rates) != 1:
            raise ValueError(f"clips must be one or more of one sample rate; got {len(clips)} of rates {rates}")
        self.crop_length = crop_length
        self.num_crops = num_crops
        self.seed = seed
        self.gain_db = gain_db
        by_speaker: defaultdict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            by_speaker[clip.speaker].append(clip)
        self._speakers = list(by_speaker.values())
        self._ends = [np.cumsum([clip.num_samples for clip in spoken]) for spoken in self._speakers]

    def __len__(self) -> int:
        return self.num_crops

    def __getitem__(self, index: int) -> Tensor:
        """Crop number `index`, [1, crop_length], float32.

        Raises:
            IndexError: There are not so many.
        """
        # Without this, `for crop in crops` would never end.
        if not 0 <= index < self.num_crops:
            raise IndexError(f"index must be in [0, {self.num_crops}); got {index}")
        random = np.random.default_rng((self.seed, index))
        speaker = random.integers(len(self._speakers))
        ends = self._ends[speaker]
        clip = self._speakers[speaker][np.searchsorted(ends, random.integers(ends[-1]), side="right")]
        start = random.integers(max(1, clip.num_samples - self.crop_length + 1))
        samples, _ = soundfile.read(clip.path, self.crop_length, start, dtype="float32", fill_value=0.0)
        gain = 10 ** (random.uniform(*self.gain_db) / 20)
        return torch.from_numpy(gain * samples).float().unsqueeze(0)
