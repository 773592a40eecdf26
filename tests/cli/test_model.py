import pytest
import torch

from codec.cli.errors import CommandError
from codec.cli.model import find_device, load_model


def test_a_folder_is_loaded_for_encoding(model_folder):
    model = load_model(str(model_folder))
    assert model.name == "tiny_1"
    assert not model.training


def test_a_model_that_does_not_exist_is_an_error():
    with pytest.raises(CommandError, match="no_such_model"):
        load_model("no_such_model")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("contents", [None, b"", b"no model"])
def test_a_broken_model_is_an_error(tmp_path, model_folder, file, contents):
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if contents is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(contents)
    with pytest.raises(CommandError, match=file):
        load_model(str(tmp_path))


def test_devices_are_found_by_their_names():
    assert find_device("cpu") == torch.device("cpu")
    for name in ("gpu", "", "cuda:x", "meta"):
        with pytest.raises(CommandError, match=f"^device must be cpu, cuda, cuda:N or mps; got '{name}'$"):
            find_device(name)


def test_a_device_that_is_not_there_is_an_error(model_folder):
    there = torch.cuda.device_count()
    with pytest.raises(CommandError, match=rf"^device must be one of this machine, which has {there} of cuda; got"):
        load_model(str(model_folder), f"cuda:{there}")
    with pytest.raises(CommandError, match="which has 1 of cpu; got 'cpu:1'"):
        find_device("cpu:1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_goes_to_its_device(model_folder):
    assert load_model(str(model_folder), "cuda").device.type == "cuda"
