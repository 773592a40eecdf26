"""What a run shows while it goes on, through Accelerate's trackers: TensorBoard, and any other that it knows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from codec.evaluate.history import group_of, scores_by_bitrate
from codec.evaluate.plots import spectrograms, to_pixels

if TYPE_CHECKING:
    from codec.evaluate.plots import Figure

# Accelerate's `log_images` takes a batch of pictures with these trackers, and a single one with the others.
BATCHED = {"tensorboard", "wandb", "swanlab"}


class Tracks:
    """Scalars, pictures and sounds for all trackers of an accelerator. Every process may call; the main one writes.

    Args:
        accelerator: Made with `log_with` and, for TensorBoard, a folder to log into; without trackers, nothing happens.
        project: Name of the run.
        first_step: Steps taken before: TensorBoard hides what a killed run logged after them, and will log again.
    """

    def __init__(self, accelerator: Accelerator, project: str, first_step: int = 0):
        self._accelerator = accelerator
        accelerator.init_trackers(project, init_kwargs={"tensorboard": {"purge_step": first_step + 1}})

    def log_window(self, step: int, values: Mapping[str, float | Sequence[float]]) -> None:
        """Write the numbers of a line of the log as curves: "loss/stft", and for each stage "perplexity/stage_01".

        Args:
            step: Steps taken.
            values: As `Window.read` gives them, and others; a "step" among them is left out.
        """
        scalars: dict[str, float] = {}
        for name, value in values.items():
            if name == "step":
                continue
            if isinstance(value, Sequence):
                scalars.update({f"{name}/stage_{stage:02d}": float(use) for stage, use in enumerate(value, start=1)})
            else:
                scalars[f"{group_of(name)}/{name}"] = float(value)
        self._accelerator.log(scalars, step)

    def log_validation(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write the scores of a validation as curves: "pesq_wb/3000" is that at 3000 bit/s.

        Args:
            step: Steps taken.
            scores: Under names such as "3000 bit/s".
        """
        scalars = {
            f"{name}/{bitrate}": score
            for bitrate, means in scores_by_bitrate(scores).items()
            for name, score in means.items()
        }
        self._accelerator.log(scalars, step)

    def log_usage_map(self, step: int, name: str, figure: "Figure") -> None:
        """Write a heat map of the use of all stages so far, such as their perplexity; see `usage_map`."""
        self._log_picture(f"usage/{name}", step, figure)

    def log_clip(self, step: int, name: str, original: Tensor, decoded: Tensor, sample_rate: int) -> None:
        """Write a clip before and after the codec: sound, where the tracker plays it, and spectrograms.

        Args:
            step: Steps taken.
            name: Of the clip.
            original: [time].
            decoded: [time], aligned with it.
            sample_rate: Hz.

        Raises:
            ValueError: The two differ in length or have more than one axis.
        """
        if not self._accelerator.trackers:
            return
        first, second = _to_samples(original), _to_samples(decoded)
        self._log_picture(f"spectrogram/{name}", step, spectrograms(first, second, sample_rate))
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_audio(f"audio/{name}/original", first, step, sample_rate)
                tracker.writer.add_audio(f"audio/{name}/decoded", second, step, sample_rate)

    def _log_picture(self, tag: str, step: int, figure: "Figure") -> None:
        trackers = [tracker for tracker in self._accelerator.trackers if hasattr(tracker, "log_images")]
        if not trackers:
            return
        picture = to_pixels(figure)
        for tracker in trackers:
            # The only one that must be told where the colours are.
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({tag: picture[None] if tracker.name in BATCHED else picture}, step, **options)


def _to_samples(waveform: Tensor) -> NDArray[np.float32]:
    """As sound is: from -1 to 1, silent where it is not a number."""
    return waveform.detach().float().cpu().nan_to_num().clamp(-1, 1).numpy()
