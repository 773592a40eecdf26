import re
import shutil
import tarfile
from pathlib import Path
from urllib.error import URLError

import pytest
from torchaudio.datasets import librispeech as publisher

from codec.corpora.corpus import find_clips
from codec.train.download import SPLITS, download_librispeech

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")


@pytest.fixture
def downloads(monkeypatch, librispeech):
    """Archives as they are published, of the test corpus, instead of the network; the addresses asked for."""
    asked = []

    def fetch(url, path, hash_prefix):
        asked.append((url, hash_prefix))
        split = Path(url).name.removesuffix(".tar.gz")
        with tarfile.open(path, "w:gz") as archive:
            archive.add(librispeech / split, Path("LibriSpeech", split))

    monkeypatch.setattr(publisher, "download_url_to_file", fetch)
    return asked


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.flac"))


def test_the_splits_are_those_that_are_published():
    assert set(SPLITS) == set(publisher._DATA_SUBSETS)


def test_a_split_is_downloaded_checked_and_unpacked(downloads, tmp_path, librispeech):
    folder = download_librispeech(tmp_path / "new" / "data", "dev-clean")
    assert folder == tmp_path / "new/data/LibriSpeech/dev-clean"
    ((url, checksum),) = downloads
    assert url == "http://www.openslr.org/resources/12/dev-clean.tar.gz"
    assert len(checksum) == 64
    assert names(folder) == names(librispeech / "dev-clean")
    assert len(find_clips(folder).clips) == 1
    assert [path.name for path in (tmp_path / "new/data").iterdir()] == ["LibriSpeech"]


def test_a_second_split_goes_beside_the_first(downloads, tmp_path):
    folders = [download_librispeech(tmp_path, split) for split in ("dev-clean", "train-clean-100", "dev-clean")]
    assert [folder.name for folder in folders] == ["dev-clean", "train-clean-100", "dev-clean"]
    assert len(downloads) == 2
    assert sorted(path.name for path in (tmp_path / "LibriSpeech").iterdir()) == ["dev-clean", "train-clean-100"]


@pytest.mark.parametrize("above", ["LibriSpeech", ""])
def test_a_copy_is_used_as_it_is(downloads, tmp_path, librispeech, above):
    copy = shutil.copytree(librispeech / "dev-clean", tmp_path / above / "dev-clean")
    assert download_librispeech(tmp_path, "dev-clean") == copy
    assert downloads == []
    assert [path.name for path in tmp_path.iterdir()] == [above or "dev-clean"]


def test_an_interrupted_download_leaves_no_copy_and_the_next_one_goes_on(downloads, tmp_path, librispeech, monkeypatch):
    extract = tarfile.TarFile.extract

    def extract_half(archive, member, path):
        extract(archive, member, path)
        if member.isfile():
            Path(path, member.name).write_bytes(b"half of a file")
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(tarfile.TarFile, "extract", extract_half)
        with pytest.raises(KeyboardInterrupt):
            download_librispeech(tmp_path, "train-clean-100")
    assert not (tmp_path / "LibriSpeech").exists()
    folder = download_librispeech(tmp_path, "train-clean-100")
    assert len(downloads) == 1
    for name in names(librispeech / "train-clean-100"):
        assert (folder / name).read_bytes() == (librispeech / "train-clean-100" / name).read_bytes()


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value"), TimeoutError("timed out")])
def test_a_failed_download_says_what_and_why(downloads, tmp_path, monkeypatch, error):
    def fail(url, path, hash_prefix):
        raise error

    monkeypatch.setattr(publisher, "download_url_to_file", fail)
    message = f"dev-clean of LibriSpeech cannot be downloaded to {tmp_path}: {error}"
    with pytest.raises(OSError, match=rf"^{re.escape(message)}$"):
        download_librispeech(tmp_path, "dev-clean")
    assert not (tmp_path / "LibriSpeech").exists()


def test_wrong_arguments_are_refused(downloads, tmp_path):
    with pytest.raises(
        ValueError, match=r"one of dev-clean, .*, train-other-500; got 'train-clean'; did you mean 'train-"
    ):
        download_librispeech(tmp_path, "train-clean")
    (tmp_path / "LibriSpeech/dev-clean").mkdir(parents=True)
    (tmp_path / "LibriSpeech/dev-clean/a.wav").touch()
    with pytest.raises(ValueError, match=r"LibriSpeech/dev-clean must hold FLAC files, or nothing; got something else"):
        download_librispeech(tmp_path, "dev-clean")
    assert downloads == []
