import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from codec.train.checkpoint import list_checkpoints, load_latest_checkpoint, save_checkpoint


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def model(accelerator):
    return accelerator.prepare(torch.nn.Linear(2, 2))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_checkpoints_are_kept(accelerator, model, tmp_path):
    kept = []
    for step in (5, 10, 15, 100):
        save_checkpoint(accelerator, tmp_path, step)
        kept.append(names(tmp_path))
    assert kept == [
        ["step-00000005"],
        ["step-00000005", "step-00000010"],
        ["step-00000010", "step-00000015"],
        ["step-00000015", "step-00000100"],
    ]


def test_the_newest_checkpoint_brings_back_weights_optimizer_and_random_numbers(accelerator, tmp_path):
    model, optimizer = accelerator.prepare(
        layer := torch.nn.Linear(2, 2), torch.optim.AdamW(layer.parameters(), lr=0.1)
    )

    def step():
        accelerator.backward(model(torch.rand(3, 2)).square().sum())
        optimizer.step()
        optimizer.zero_grad()
        return model.weight.detach().clone()

    step()
    save_checkpoint(accelerator, tmp_path, 1)
    step()
    save_checkpoint(accelerator, tmp_path, 2)
    expected = [step(), step()]
    assert load_latest_checkpoint(accelerator, tmp_path) == 2
    assert all(torch.equal(step(), weight) for weight in expected)


def test_a_checkpoint_of_the_same_step_is_replaced(accelerator, model, tmp_path):
    save_checkpoint(accelerator, tmp_path, 3)
    model.weight.data.fill_(7)
    save_checkpoint(accelerator, tmp_path, 3)
    model.weight.data.fill_(0)
    load_latest_checkpoint(accelerator, tmp_path)
    assert (model.weight == 7).all()


def test_a_checkpoint_that_was_not_finished_is_never_taken_for_whole(accelerator, model, tmp_path, monkeypatch):
    save_checkpoint(accelerator, tmp_path, 3)
    model.weight.data.fill_(7)
    save_state = accelerator.save_state

    def killed(folder):
        save_state(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(accelerator, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(accelerator, tmp_path, 6)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003"]
    assert load_latest_checkpoint(accelerator, tmp_path) == 3
    assert not (model.weight == 7).any()

    monkeypatch.setattr(accelerator, "save_state", save_state)
    save_checkpoint(accelerator, tmp_path, 6)
    assert names(tmp_path) == ["step-00000003", "step-00000006"]


def test_checkpoints_are_listed_by_step_and_nothing_else_is(tmp_path):
    for name in ("step-00000100", "step-00000020", "partial-00000200", "step-last", "step-00000300.old", "model"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000020", "step-00000100"]
    assert list_checkpoints(tmp_path / "none") == []


def test_there_must_be_a_checkpoint_to_go_on_from(accelerator, tmp_path):
    (tmp_path / "partial-00000200").mkdir()
    with pytest.raises(ValueError, match="must hold a checkpoint to resume from; found none"):
        load_latest_checkpoint(accelerator, tmp_path)


def test_a_checkpoint_of_another_model_is_refused_on_one_line(accelerator, model, tmp_path):
    save_checkpoint(accelerator, tmp_path, 3)
    accelerator.free_memory()
    accelerator.prepare(torch.nn.Linear(2, 3))
    with pytest.raises(
        ValueError, match=r"step-00000003 must hold the state of the recipe's model; .*size mismatch"
    ) as error:
        load_latest_checkpoint(accelerator, tmp_path)
    assert "\n" not in str(error.value)
