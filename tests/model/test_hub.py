"""Models from the Hugging Face hub, as its own library finds them: in its cache, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from codec import Codec, CodecConfig, build_codec
from codec.model import ModelConfig, QuantizerConfig

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path) -> Path:
    """A cache that holds the repository someone/tiny, laid out as the hub's library does."""
    codec = build_codec(
        CodecConfig(
            "tiny",
            ModelConfig(dim=16, encoder_depth=1, decoder_depth=1, latent_dim=8),
            QuantizerConfig(num_quantizers=2, codebook_size=16),
        )
    )
    with torch.no_grad():
        codec(torch.randn(4, 1, 16_000))
    repository = tmp_path / "models--someone--tiny"
    codec.save_pretrained(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


def load(name: str, cache: Path) -> subprocess.CompletedProcess[str]:
    # A process of its own, since the library reads its environment when it is imported.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    program = f"from codec import Codec; print(Codec.from_pretrained({name!r}).num_quantizers)"
    command = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_repository_of_the_hub_loads_by_its_name(cache):
    result = load("someone/tiny", cache)
    assert (result.returncode, result.stdout) == (0, "2\n"), result.stderr


def test_all_entropy_tables_are_asked_for(monkeypatch, cache):
    wanted = []

    def snapshot_download(repository, allow_patterns):
        names = ["entropy.safetensors", "entropy-0123456789abcdef.safetensors", "entropy-mine.safetensors", "README.md"]
        wanted.extend(filter_repo_objects(names, allow_patterns=allow_patterns))
        return cache / "models--someone--tiny" / "snapshots" / COMMIT

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert Codec.from_pretrained("someone/tiny").num_quantizers == 2
    assert wanted == ["entropy.safetensors", "entropy-0123456789abcdef.safetensors"]


def test_a_repository_that_cannot_be_had_is_an_error_that_says_so(cache):
    result = load("someone/else", cache)
    assert result.returncode != 0
    assert "ValueError: model must be a folder that exists" in result.stderr
    assert "got 'someone/else', and the hub says: " in result.stderr
