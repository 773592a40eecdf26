import json
import pickle
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from codec.bitstream import packed_size
from codec.bitstream.entropy import EntropyTables
from codec.bitstream.learn import learn_tables
from codec.model import Codec, build_codec
from codec.model.checkpoint import load_weights
from codec.model.folder import shipped_models, tables_bytes


@pytest.fixture
def folder(codec, tmp_path) -> Path:
    """Where the codec is saved."""
    codec.save_pretrained(tmp_path / "some" / "folder")
    return tmp_path / "some" / "folder"


@pytest.fixture
def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal_states(codec, other):
    state, other_state = codec.state_dict(), other.state_dict()
    return state.keys() == other_state.keys() and all(torch.equal(state[name], other_state[name]) for name in state)


def test_a_codec_comes_back_bit_for_bit(codec, folder, speech):
    loaded = Codec.from_pretrained(folder)
    assert loaded.config == codec.config
    assert equal_states(codec, loaded)
    assert not loaded.training
    codes = codec.encode(speech[..., :8000])
    assert torch.equal(loaded.encode(speech[..., :8000]), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


def test_the_name_of_a_folder_may_be_a_string(codec, folder):
    assert equal_states(Codec.from_pretrained(str(folder)), codec)


def test_saving_again_writes_the_same_bytes(codec, folder, tmp_path):
    Codec.from_pretrained(folder).save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_loaded_codec_can_be_trained_on(folder, speech):
    loaded = Codec.from_pretrained(folder).train()
    output = loaded(speech[..., :8000])
    output.waveform.square().mean().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_half_the_space_and_encodes_in_float32(codec, folder, tmp_path, speech, dtype):
    codec.save_pretrained(tmp_path / "half", dtype=dtype)
    size = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert size < 0.6 * (folder / "model.safetensors").stat().st_size

    loaded = Codec.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, tensor in codec.state_dict().items():
        expected = tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], expected)
    codes = loaded.encode(speech[..., :8000])
    assert (codes == codec.encode(speech[..., :8000])).float().mean() > 0.9


def test_half_precision_is_rounded_once(codec, tmp_path):
    codec.save_pretrained(tmp_path / "half", dtype=torch.float16)
    once = Codec.from_pretrained(tmp_path / "half")
    once.save_pretrained(tmp_path / "twice", dtype=torch.float16)
    assert Codec.from_pretrained(tmp_path / "twice").fingerprint() == once.fingerprint() != codec.fingerprint()


def test_the_fingerprint_survives_saving(codec, folder):
    fingerprint = codec.fingerprint()
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    assert Codec.from_pretrained(folder).fingerprint() == fingerprint


def test_the_fingerprint_does_not_depend_on_gradients_or_mode(codec):
    fingerprint = codec.fingerprint()
    assert codec.train().requires_grad_(False).fingerprint() == fingerprint


def test_the_fingerprint_tells_any_changed_weight(codec):
    seen = {codec.fingerprint()}
    weights = {name: tensor for name, tensor in codec.state_dict().items() if not name.endswith((".usage", ".steps"))}
    for tensor in weights.values():
        last = tensor.view(-1)[-1:]
        last.copy_(~last if tensor.dtype == torch.bool else last + 1)
        seen.add(codec.fingerprint())
    assert len(seen) == 1 + len(weights)


def test_an_unknown_name_lists_the_models_in_the_package(tmp_path, monkeypatch, codec):
    for name in ("speech_8khz", "speech_16khz"):
        codec.save_pretrained(tmp_path / "pretrained" / name)
    (tmp_path / "pretrained" / "empty").mkdir()
    monkeypatch.setattr("codec.model.folder.files", lambda package: tmp_path)
    assert list(shipped_models()) == ["speech_16khz", "speech_8khz"]
    assert equal_states(Codec.from_pretrained("speech_8khz"), codec)
    with pytest.raises(
        ValueError, match=r"model must be .* speech_16khz, speech_8khz; got 'speech_16kHz'; did you mean"
    ):
        Codec.from_pretrained("speech_16kHz")


def test_a_file_is_no_model(folder):
    with pytest.raises(ValueError, match=r"model must be a folder.*; got '.*model\.safetensors'"):
        Codec.from_pretrained(folder / "model.safetensors")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}: .*No such file"):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modell": {}}, "unknown setting modell; did you mean 'model'"),
        ({"model": {"dims": 3}}, r"unknown setting model\.dims; did you mean 'dim'"),
        ({"model": {"dim": "24"}}, r"model\.dim must be int; got '24'"),
        ({"model": 3}, "model must be a table; got 3"),
    ],
)
def test_settings_that_are_not_known_are_named(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"model": [1]}'])
def test_settings_that_are_no_json_object_are_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: "):
        Codec.from_pretrained(folder)


def test_weights_of_another_model_are_refused_with_what_does_not_fit(folder, weights):
    weights["encoder.9.weight"] = weights.pop("encoder.1.conv.weight")
    weights["encoder.1.conv.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"weights do not fit the model: missing encoder\.1\.conv\.weight; unknown encoder\.9\.weight; "
        r"encoder\.1\.conv\.bias must have shape \[24\]; got \[3\]$",
    ):
        Codec.from_pretrained(folder)


def test_weights_of_another_kind_are_refused(folder, weights):
    weights["encoder.1.conv.bias"] = weights["encoder.1.conv.bias"].int()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.1\.conv\.bias must be of type torch\.float32; got torch\.int32"):
        Codec.from_pretrained(folder)


def test_of_many_misfits_five_are_named(folder):
    save_file({}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing (\S+; missing ){4}\S+ and \d+ more$"):
        Codec.from_pretrained(folder)


def test_refused_weights_change_nothing(config, codec, weights):
    fresh = build_codec(config)
    before = fresh.fingerprint()
    del weights["decoder.0.bias"]
    with pytest.raises(ValueError, match=r"missing decoder\.0\.bias"):
        load_weights(fresh, weights)
    assert fresh.fingerprint() == before


def test_damaged_weights_are_refused(codec, folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    chance = random.Random(0)
    damaged = [b"", whole[:4], whole[:8], whole[: header // 2], whole[:header], whole[:-1], whole + b"x", b"\xff" * 100]
    for _ in range(50):
        position = chance.randrange(header)
        damaged.append(whole[:position] + bytes([chance.randrange(256)]) + whole[position + 1 :])
    for content in damaged:
        if content == whole:
            continue
        path.write_bytes(content)
        # A changed byte of the metadata harms nothing.
        with suppress(ValueError):
            assert equal_states(Codec.from_pretrained(folder), codec)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_pickle_is_ever_read(folder, tmp_path):
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    (folder / "pytorch_model.bin").write_bytes(trap)
    assert Codec.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(trap)
    with pytest.raises(ValueError, match="not a safetensors file"):
        Codec.from_pretrained(folder)
    torch.save(Trap(sprung), folder / "model.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        Codec.from_pretrained(folder)
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists(), "the trap itself must work"


@pytest.mark.parametrize("name", shipped_models())
def test_each_model_in_the_package_loads_and_codes(name, speech):
    codec = Codec.from_pretrained(name)
    codes = codec.encode(speech)
    assert codec.name == name
    assert codec.decode(codes).shape[-1] >= speech.shape[-1]


def test_the_fingerprint_leaves_out_what_only_training_reads(codec):
    fingerprint = codec.fingerprint()
    codec.quantizer.stages[0].codebook.usage.mul_(0.5)
    codec.quantizer.stages[0].codebook.steps.add_(1)
    codec.quantizer.set_temperature(0.5)
    assert codec.fingerprint() == fingerprint


@pytest.mark.parametrize("settings", [{"update": "in_place"}, {"estimator": "reinmax", "temperature": (2.0, 1.0)}])
def test_state_that_only_training_reads_is_saved_and_outside_the_fingerprint(config, make_codec, tmp_path, settings):
    codec = make_codec(replace(config, quantizer=replace(config.quantizer, **settings)))
    fingerprint = codec.fingerprint()
    names = [name for name in codec.state_dict() if "optimizer.state" in name or name.endswith("temperature")]
    assert names
    for name in names:
        codec.state_dict()[name].add_(1)
    codec.save_pretrained(tmp_path)
    loaded = Codec.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], codec.state_dict()[name]) for name in names)
    assert loaded.fingerprint() == codec.fingerprint() == fingerprint


def test_saving_leaves_two_files_that_others_may_read(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def tables(codec, speech) -> EntropyTables:
    return learn_tables(codec.encode(speech[..., :16_000]).numpy(), codec.codebook_size)


@pytest.fixture
def folder_with_tables(codec, tables, tmp_path) -> Path:
    codec.entropy = tables
    codec.save_pretrained(tmp_path / "with_tables")
    return tmp_path / "with_tables"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_entropy_tables_stand_beside_the_weights_that_they_belong_to(codec, tables, tmp_path, dtype):
    assert codec.entropy is None
    codec.entropy = tables
    codec.save_pretrained(tmp_path, dtype=dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "entropy.safetensors",
        "model.safetensors",
    ]
    loaded = Codec.from_pretrained(tmp_path)
    assert loaded.entropy.fingerprint == tables.fingerprint
    assert np.array_equal(loaded.entropy.weights, tables.weights)
    loaded.save_pretrained(tmp_path / "again", dtype=dtype)
    first, again = (folder / "entropy.safetensors" for folder in (tmp_path, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()


def test_a_model_saved_without_its_entropy_tables_leaves_them_for_old_files(codec, tables, folder_with_tables):
    codec.entropy = None
    codec.save_pretrained(folder_with_tables)
    loaded = Codec.from_pretrained(folder_with_tables)
    assert loaded.entropy is None
    assert loaded.tables_of(tables.fingerprint).fingerprint == tables.fingerprint


def test_entropy_tables_of_other_weights_are_removed(codec, folder_with_tables):
    next(codec.parameters()).data += 1
    codec.entropy = None
    codec.save_pretrained(folder_with_tables)
    assert list(folder_with_tables.glob("entropy*")) == []


@pytest.fixture
def earlier(codec, tables, folder_with_tables) -> EntropyTables:
    """Other tables, which the codec had before and which are in its folder, too."""
    earlier = learn_tables([np.zeros((4, 3), dtype=int)], codec.codebook_size)
    codec.earlier_entropy.append(earlier)
    codec.save_pretrained(folder_with_tables)
    return earlier


def test_earlier_entropy_tables_stay_for_the_files_that_name_them(codec, tables, earlier, folder_with_tables):
    loaded = Codec.from_pretrained(folder_with_tables)
    assert loaded.entropy.fingerprint == tables.fingerprint
    for each in (tables, earlier):
        assert np.array_equal(loaded.tables_of(each.fingerprint).weights, each.weights)
    loaded.earlier_entropy.clear()
    loaded.save_pretrained(folder_with_tables)
    names = {"entropy.safetensors", f"entropy-{earlier.fingerprint}.safetensors"}
    assert {path.name for path in folder_with_tables.glob("entropy*")} == names


def test_entropy_tables_that_the_model_lacks_are_an_error_that_says_what_to_do(codec, tables):
    message = (
        r"^model tiny must have the entropy tables 0123456789abcdef of the file; got {}: put them into its folder "
    )
    with pytest.raises(ValueError, match=message.format("none") + r"as entropy-0123456789abcdef\.safetensors, from"):
        codec.tables_of("0123456789abcdef")
    codec.entropy = tables
    with pytest.raises(ValueError, match=message.format(tables.fingerprint)):
        codec.tables_of("0123456789abcdef")


def test_earlier_entropy_tables_that_cannot_be_used_are_refused(codec, tables, earlier, folder_with_tables):
    path = folder_with_tables / f"entropy-{earlier.fingerprint}.safetensors"
    path.write_bytes(tables_bytes(tables, codec.fingerprint()))
    with pytest.raises(
        ValueError, match=rf"tables must be those of the file's name; got {tables.fingerprint}: replace"
    ):
        Codec.from_pretrained(folder_with_tables)
    path.write_bytes(tables_bytes(earlier, "0123456789abcdef"))
    with pytest.raises(
        ValueError, match=r"must belong to the weights .* got 0123456789abcdef: replace it by an intact"
    ):
        Codec.from_pretrained(folder_with_tables)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int16, torch.float16])
def test_entropy_tables_of_another_type_are_refused(folder, dtype):
    save_file({"ranks": torch.zeros(2, 4).to(dtype)}, folder / "entropy.safetensors")
    with pytest.raises(ValueError, match=r"entropy\.safetensors: 'ranks' must be of type U16; got \w+: remove it"):
        Codec.from_pretrained(folder)


def test_entropy_tables_do_not_change_the_fingerprint_of_the_weights(codec, tables):
    fingerprint = codec.fingerprint()
    codec.entropy = tables
    assert codec.fingerprint() == fingerprint


def test_entropy_tables_of_other_weights_are_refused(codec, folder_with_tables):
    codec.quantizer.stages[0].codebook.steps.add_(1)
    codec.save_pretrained(folder_with_tables)
    assert Codec.from_pretrained(folder_with_tables).entropy is not None, "what only training reads is no matter"
    kept = (folder_with_tables / "entropy.safetensors").read_bytes()
    next(codec.parameters()).data.add_(1)
    codec.save_pretrained(folder_with_tables)
    (folder_with_tables / "entropy.safetensors").write_bytes(kept)
    with pytest.raises(
        ValueError, match=rf"must belong to the weights {codec.fingerprint()} .*: remove it; codec train"
    ):
        Codec.from_pretrained(folder_with_tables)


def test_entropy_tables_for_another_number_of_stages_are_refused(codec, tables, folder):
    fewer = learn_tables([np.zeros((2, 3), dtype=int)], 16)
    (folder / "entropy.safetensors").write_bytes(tables_bytes(fewer, codec.fingerprint()))
    with pytest.raises(
        ValueError, match=r"entropy\.safetensors: must be for \(4, 16\) stages and codes; got \(2, 16\)"
    ):
        Codec.from_pretrained(folder)


def test_arrays_that_are_no_entropy_tables_are_refused(codec, tables, folder):
    spoiled = replace(tables, weights=tables.weights + np.uint16(1))
    (folder / "entropy.safetensors").write_bytes(tables_bytes(spoiled, codec.fingerprint()))
    with pytest.raises(ValueError, match=r"entropy\.safetensors: weights must be positive, with a sum"):
        Codec.from_pretrained(folder)


def test_damaged_entropy_tables_are_refused(tables, folder_with_tables):
    path = folder_with_tables / "entropy.safetensors"
    whole = path.read_bytes()
    chance = random.Random(0)
    places = chance.sample(range(8 + int.from_bytes(whole[:8], "little")), 50)
    damaged = [b"", whole[:8], whole[:-1], whole + b"x", b"\xff" * 100]
    damaged += [whole[:place] + bytes([chance.randrange(256)]) + whole[place + 1 :] for place in places]
    for content in damaged:
        path.write_bytes(content)
        # Letters of the metadata that nobody reads may be others.
        with suppress(ValueError):
            assert Codec.from_pretrained(folder_with_tables).entropy.fingerprint == tables.fingerprint


@pytest.mark.parametrize(("stages", "most"), [(3, 0.66), (12, 0.75), (20, 0.75)])
def test_the_tables_of_the_shipped_model_save_what_was_promised(clips, stages, most):
    codec = Codec.from_pretrained("speech_16khz")
    coded = packed = 0
    for clip in clips:
        waveform = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None, None]
        with torch.inference_mode():
            codes = codec.encode(waveform, stages, rate_weight=codec.rate_weight).numpy()
        chunks = [codes[..., start : start + 100] for start in range(0, codes.shape[2], 100)]
        payloads = [codec.entropy.encode(chunk) for chunk in chunks]
        for chunk, payload in zip(chunks, payloads, strict=True):
            assert np.array_equal(codec.entropy.decode(payload, *chunk.shape), chunk)
        coded += sum(map(len, payloads))
        packed += sum(packed_size(codec.bits_per_code, chunk.size) for chunk in chunks)
    assert coded <= most * packed
