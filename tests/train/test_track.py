"""What TensorBoard reads back, and what any other tracker is given."""

import io
import math

import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from codec.evaluate.plots import spectrograms, to_pixels, usage_map
from codec.train.track import Tracks

WINDOW = {
    "step": 10,
    "learning_rate": 1e-3,
    "discriminator_learning_rate": 2e-3,
    "loss": 3.0,
    "log_mel": math.nan,
    "gradient_norm": 0.5,
    "skipped_steps": 2,
    "perplexity": [8.0, 4.0],
    "dead_share": [0.0, 0.5],
    "audio_seconds_per_second": 40.0,
    "data_share": 0.05,
}
SCALARS = {
    "learning_rate/learning_rate": 1e-3,
    "learning_rate/discriminator_learning_rate": 2e-3,
    "loss/loss": 3.0,
    "loss/log_mel": math.nan,
    "gradient/gradient_norm": 0.5,
    "gradient/skipped_steps": 2.0,
    "perplexity/stage_01": 8.0,
    "perplexity/stage_02": 4.0,
    "dead_share/stage_01": 0.0,
    "dead_share/stage_02": 0.5,
    "throughput/audio_seconds_per_second": 40.0,
    "throughput/data_share": 0.05,
}
SCORES = {"3000 bit/s": {"pesq_wb": 2.0, "stoi": 0.8}, "6000 bit/s": {"pesq_wb": 3.0, "stoi": 0.9}}


@pytest.fixture
def make_accelerator(tmp_path):
    yield lambda *trackers: Accelerator(cpu=True, log_with=list(trackers) or None, project_dir=tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def accelerator(make_accelerator):
    return make_accelerator("tensorboard")


def read_events(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tiny"))
    events.Reload()
    return events


def read_scalars(folder) -> dict[str, list[tuple[int, float]]]:
    events = read_events(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_of_a_window_is_a_curve(accelerator, tmp_path):
    Tracks(accelerator, "tiny").log_window(10, WINDOW)
    accelerator.end_training()
    scalars = read_scalars(tmp_path)
    assert list(scalars) == list(SCALARS)
    for tag, value in SCALARS.items():
        assert scalars[tag] == [(10, pytest.approx(value, nan_ok=True))]


def test_scores_are_curves_by_bitrate(accelerator, tmp_path):
    Tracks(accelerator, "tiny").log_validation(10, SCORES)
    accelerator.end_training()
    assert read_scalars(tmp_path) == {
        "pesq_wb/3000": [(10, 2.0)],
        "stoi/3000": [(10, pytest.approx(0.8))],
        "pesq_wb/6000": [(10, 3.0)],
        "stoi/6000": [(10, pytest.approx(0.9))],
    }


def test_the_heat_map_is_a_picture(accelerator, tmp_path):
    Tracks(accelerator, "tiny").log_usage_map(10, "perplexity", usage_map([10], [[8.0, 4.0]], "perplexity"))
    accelerator.end_training()
    (event,) = read_events(tmp_path).Images("usage/perplexity")
    expected = to_pixels(usage_map([10], [[8.0, 4.0]], "perplexity"))
    assert event.step == 10
    np.testing.assert_array_equal((255 * imread(io.BytesIO(event.encoded_image_string))).round(), expected)


def test_a_clip_is_heard_and_seen(accelerator, tmp_path, speech):
    original = speech[0, 0, 16_000:20_000]
    decoded = torch.where(torch.arange(4000) < 10, math.nan, 2 * original / original.abs().max())
    Tracks(accelerator, "tiny").log_clip(10, "1963-142393", original, decoded, 16_000)
    accelerator.end_training()
    events = read_events(tmp_path)
    for kind, expected in {"original": original, "decoded": decoded.nan_to_num().clamp(-1, 1)}.items():
        (event,) = events.Audio(f"audio/1963-142393/{kind}")
        samples, sample_rate = soundfile.read(io.BytesIO(event.encoded_audio_string), dtype="float32")
        assert (event.step, sample_rate) == (10, 16_000)
        torch.testing.assert_close(torch.from_numpy(samples), expected, atol=1e-4, rtol=0)
    (event,) = events.Images("spectrogram/1963-142393")
    expected = to_pixels(spectrograms(original.numpy(), decoded.nan_to_num().clamp(-1, 1).numpy(), 16_000))
    np.testing.assert_array_equal((255 * imread(io.BytesIO(event.encoded_image_string))).round(), expected)


def test_what_came_after_the_checkpoint_of_a_killed_run_is_hidden(make_accelerator, tmp_path, speech):
    killed = make_accelerator("tensorboard")
    tracks = Tracks(killed, "tiny")
    for step in (10, 20, 30):
        tracks.log_clip(step, "clip", speech[0, 0, :800], speech[0, 0, :800], 16_000)
        tracks.log_window(step, {"loss": float(step)})
    killed.end_training()
    (file,) = (tmp_path / "tiny").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    resumed = make_accelerator("tensorboard")
    Tracks(resumed, "tiny", first_step=20).log_window(30, {"loss": 31.0})
    resumed.end_training()
    assert read_scalars(tmp_path)["loss/loss"] == [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert [event.step for event in read_events(tmp_path).Audio("audio/clip/decoded")] == [10, 20]


class Notebook(GeneralTracker):
    """A tracker that keeps what it is given, and may take single pictures."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self, takes_pictures):
        super().__init__()
        self.pages = []
        if takes_pictures:
            self.log_images = lambda values, step: self.pages.append((step, values))

    @property
    def tracker(self):
        return self.pages

    def log(self, values, step=None):
        self.pages.append((step, values))


@pytest.mark.parametrize("takes_pictures", [True, False])
def test_other_trackers_get_what_they_take(make_accelerator, tmp_path, speech, takes_pictures):
    notebook = Notebook(takes_pictures)
    tracks = Tracks(make_accelerator(notebook), "tiny")
    tracks.log_window(10, {"loss": 1.0})
    tracks.log_usage_map(10, "entropy", usage_map([10], [[8.0]], "entropy"))
    tracks.log_clip(20, "clip", speech[0, 0, :800], speech[0, 0, :800], 16_000)
    assert notebook.pages[0] == (10, {"loss/loss": 1.0})
    pictures = [(step, tag, picture.ndim) for step, values in notebook.pages[1:] for tag, picture in values.items()]
    expected = [(10, "usage/entropy", 3), (20, "spectrogram/clip", 3)]
    assert pictures == (expected if takes_pictures else [])
    assert list(tmp_path.iterdir()) == []


def test_without_trackers_nothing_happens(make_accelerator, tmp_path, speech):
    tracks = Tracks(make_accelerator(), "tiny")
    tracks.log_window(10, WINDOW)
    tracks.log_validation(10, SCORES)
    tracks.log_usage_map(10, "entropy", usage_map([10], [[8.0]], "entropy"))
    tracks.log_clip(10, "clip", speech[0, 0], speech[0, 0], 16_000)
    assert list(tmp_path.iterdir()) == []


def log_on_ranks(rank, folder):
    """How many trackers this rank wrote to."""
    rank.join()
    # What `accelerate launch` tells a process.
    places = {"RANK": rank.index, "LOCAL_RANK": rank.index, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**places, "MASTER_PORT": 0, "OMP_NUM_THREADS": 1, "ACCELERATE_USE_CPU": "true"}.items():
            patch.setenv(name, str(value))
        accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder)
        try:
            tracks = Tracks(accelerator, "tiny")
            tracks.log_window(10, {"loss": 1.0 + rank.index})
            tracks.log_clip(10, "clip", torch.zeros(800), torch.zeros(800), 16_000)
            for tracker in accelerator.trackers:
                tracker.finish()
            return accelerator.num_processes, len(accelerator.trackers)
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_only_the_main_process_writes(two_ranks, tmp_path):
    assert two_ranks(log_on_ranks, tmp_path) == [(2, 1), (2, 0)]
    assert read_scalars(tmp_path) == {"loss/loss": [(10, 1.0)]}
    assert len(list((tmp_path / "tiny").iterdir())) == 1
