import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from codec import Codec
from codec.lm.model import EMBEDDING_DEVIATION, OUTPUT_DEVIATION, CodeLM, build_lm, place_code_vectors
from codec.lm.recipe import TransformerConfig
from codec.quantize import ResidualVQ, VectorQuantize
from codec.tokens import PATTERNS, CodecTokenizer

CONFIG = TransformerConfig(hidden_size=16, layers=1, heads=2, feed_forward=32, max_steps=64)


def ids_of(tokenizer, frames=6):
    """A batch of two sequences, [2, width, steps]."""
    codes = torch.randint(tokenizer.codebook_size, (2, tokenizer.num_quantizers, frames))
    return torch.stack([tokenizer.encode(each).view(tokenizer.width, -1) for each in codes])


@pytest.fixture
def folder(tiny_lm, tmp_path):
    """Of a language model of two stages of five codes, flattened."""
    tiny_lm(CodecTokenizer(2, 5, fingerprint="00ff")).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_tokens_of_a_step_are_embedded_and_summed(tiny_lm, pattern):
    lm = tiny_lm(CodecTokenizer(3, 5, pattern))
    ids = ids_of(lm.tokenizer)
    table = lm.transformer.get_input_embeddings().weight
    summed = torch.stack([sum(table[row] for row in step) for step in ids.mT.reshape(-1, 3)])
    with torch.no_grad():
        expected = lm.transformer(inputs_embeds=summed.view(2, -1, 16)).logits
        torch.testing.assert_close(lm(ids), expected)
    assert lm(ids).shape == (2, ids.shape[2], lm.tokenizer.vocab_size)


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_logits_depend_on_no_later_step(tiny_lm, pattern):
    lm = tiny_lm(CodecTokenizer(3, 5, pattern))
    ids = ids_of(lm.tokenizer)
    expected = lm(ids)
    torch.testing.assert_close(lm(ids[..., :4]), expected[:, :4])
    changed = ids.clone()
    changed[..., 4] = lm.tokenizer.pad_id
    assert not torch.allclose(lm(changed)[:, 4:], expected[:, 4:])
    # The same with a cache, whose steps are known already.
    cache = lm.new_cache()
    parts = [lm(part, cache) for part in ids.split([2, 1, ids.shape[2] - 3], dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["flatten", "coarse_first"])
def test_with_one_row_it_is_a_llama_that_transformers_opens(tiny_lm, tmp_path, pattern):
    lm = tiny_lm(CodecTokenizer(3, 5, pattern))
    lm.save_pretrained(tmp_path)
    llama = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = ids_of(lm.tokenizer)
    torch.testing.assert_close(llama(ids[:, 0]).logits, lm(ids), rtol=0, atol=0)
    config = llama.config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (16, 17, 15)


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_model_is_opened_as_it_was_saved(tiny_lm, tmp_path, pattern):
    lm = tiny_lm(CodecTokenizer(3, 5, pattern, extras=["speaker"], fingerprint="00ff", model="tiny", frame_rate=12.5))
    lm.save_pretrained(tmp_path / "new" / "folder")
    opened = CodeLM.from_pretrained(tmp_path / "new" / "folder")
    assert not opened.training
    assert opened.max_steps == lm.max_steps == 64
    for name in ("vocab_size", "pattern", "extras", "fingerprint", "model", "frame_rate"):
        assert getattr(opened.tokenizer, name) == getattr(lm.tokenizer, name)
    ids = ids_of(lm.tokenizer)
    assert torch.equal(opened(ids), lm(ids))


def test_what_a_folder_says_runs_no_code(tiny_lm, tmp_path):
    tiny_lm(CodecTokenizer(2, 5)).save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "run")))
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    change_config(tmp_path, attn_implementation="somebody/kernel", quantization_config={"quant_method": "bitsandbytes"})
    assert CodeLM.from_pretrained(tmp_path).tokenizer.vocab_size == 14
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"it has no model\.safetensors"):
        CodeLM.from_pretrained(tmp_path)
    assert not (tmp_path / "run").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def change_config(folder, **settings):
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, **settings}))


def drop_norm(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
        (lambda folder: (folder / "codec_tokenizer.json").unlink(), "it has no codec_tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "it has no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "must hold a language model of codes; Error"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            "must hold a language model of codes; ",
        ),
        (drop_norm, 'must hold a language model of codes; .*Missing key.* "model.norm.weight"'),
        (
            lambda folder: change_config(folder, num_hidden_layers=1),
            r"must hold a language model of codes; .*Unexpected key.* \"model\.layers\.1\.",
        ),
        (lambda folder: change_config(folder, hidden_size=32), "must hold a language model of codes; "),
        (lambda folder: change_config(folder, hidden_size="x"), "must hold a language model of codes; .*hidden_size"),
        (lambda folder: (folder / "config.json").write_text("{"), "must hold a language model of codes; .*JSON"),
        # Those of a Llama of 7 billion weights, which must not be made to find out.
        (lambda folder: (folder / "config.json").write_text("{}"), "must have the 14 tokens .*; got 32000"),
        (
            lambda folder: CodecTokenizer(3, 5).save_pretrained(folder),
            "transformer must have the 19 tokens of the tokenizer; got 14",
        ),
        (lambda folder: (folder / "codec_tokenizer.json").write_text("{}"), "setting num_quantizers must be given"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused_on_one_line(folder, capfd, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        CodeLM.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none must hold a language model of codes; it has no config\.json"):
        CodeLM.from_pretrained(tmp_path / "none")


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_rows_with_shared_ids_are_refused(pattern):
    with pytest.raises(ValueError, match=f"ids of its own for the pattern {pattern}, whose rows are told apart by"):
        build_lm(CONFIG, CodecTokenizer(2, 5, pattern, shared=True))


class TestCodeVectors:
    """What embeddings and outputs begin with."""

    @pytest.fixture
    def quantizer(self):
        """Three stages, whose code vectors are on a line: 0, 1, 4, 9, 16 times some vector."""
        stack = ResidualVQ([VectorQuantize(8, 5) for _ in range(3)])
        for stage in stack.stages:
            stage.codebook.vectors.copy_(torch.arange(5.0).square()[:, None] * torch.randn(8))
            stage.codebook.initialized.fill_(True)
        return stack.eval()

    def test_those_of_similar_codes_are_similar(self, quantizer):
        tokenizer = CodecTokenizer(2, 5, "delay")
        transformer = build_lm(CONFIG, tokenizer).transformer
        before = [table.clone() for table in (transformer.model.embed_tokens.weight, transformer.lm_head.weight)]
        place_code_vectors(transformer, tokenizer, quantizer)
        tables = transformer.model.embed_tokens.weight, transformer.lm_head.weight
        squares = torch.arange(5.0).square()[:, None]
        for table, old, deviation in zip(tables, before, (EMBEDDING_DEVIATION, OUTPUT_DEVIATION), strict=True):
            for stage in range(2):
                own = table[5 * stage : 5 * stage + 5].detach()
                # A linear map keeps the distances on a line, but for their unit.
                distances = torch.cdist(own, own)
                torch.testing.assert_close(distances / distances[0, 1], torch.cdist(squares, squares))
                assert own.std().item() == pytest.approx(deviation, rel=1e-4)
                assert own.mean(0).abs().max() < 1e-6
            # Special tokens have none.
            assert torch.equal(table[10:], old[10:])

    def test_those_of_a_codec_are_found_by_its_name(self, tmp_path):
        codec = Codec.from_pretrained("speech_16khz")
        tokenizer = CodecTokenizer.from_codec(codec, 2)
        config = TransformerConfig(hidden_size=64, layers=1, heads=2, feed_forward=32, codec="speech_16khz")
        table = build_lm(config, tokenizer).transformer.model.embed_tokens.weight.detach()
        for stage in range(2):
            codes = torch.arange(codec.codebook_size)[None]
            vectors = codec.quantizer.stages[stage].decode(codes)[0].T.detach()
            own = table[codec.codebook_size * stage :][: codec.codebook_size]
            pairs = torch.stack([torch.cdist(each, each).flatten() for each in (vectors, own)])
            assert torch.corrcoef(pairs)[0, 1] > 0.8

    def test_another_codec_is_refused(self):
        tokenizer = CodecTokenizer(2, 1024, model="other", fingerprint="00ff")
        config = TransformerConfig(hidden_size=16, layers=1, heads=2, feed_forward=32, codec="speech_16khz")
        with pytest.raises(ValueError, match=r"whose codes these are, other \(00ff\); got speech_16khz \([0-9a-f]+\)"):
            build_lm(config, tokenizer)

    def test_shared_ids_are_refused(self, quantizer):
        tokenizer = CodecTokenizer(2, 5, shared=True)
        with pytest.raises(ValueError, match="ids of its own, to have its code vectors; got shared ids"):
            place_code_vectors(build_lm(CONFIG, tokenizer).transformer, tokenizer, quantizer)
