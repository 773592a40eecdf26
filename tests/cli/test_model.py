import pytest

from codec.cli.errors import CommandError
from codec.cli.model import load_model


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
