"""Token ids in flat files with an index."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec.shards import Row, TokenFiles, write_tokens
from codec.shards.token_files import read_index
from codec.tokens import CodecTokenizer

MakeRows = Callable[..., list[Row]]
HEADER = struct.pack("<4sIIIQ", b"RVQX", 1, 2, 1, 2)


def test_the_files_are_as_documented(tmp_path: Path) -> None:
    files = write_tokens(tmp_path / "a", [np.array([3, 1]), np.array([2])], width=1, vocab_size=4)
    assert [path.name for path in files] == ["a.bin", "a.idx"]
    assert files[0].read_bytes() == struct.pack("<HHH", 3, 1, 2)
    assert files[1].read_bytes() == HEADER + struct.pack("<qqq", 0, 2, 3)


def test_a_large_vocabulary_has_32_bits_and_steps_of_several_rows_lie_together(tmp_path: Path) -> None:
    ids, index = write_tokens(tmp_path / "a", [np.array([[1, 2, 3], [4, 5, 70_000]])], width=2, vocab_size=70_001)
    assert ids.read_bytes() == struct.pack("<IIIIII", 1, 4, 2, 5, 3, 70_000)
    assert index.read_bytes() == struct.pack("<4sIIIQqq", b"RVQX", 1, 4, 2, 1, 0, 3)


@pytest.mark.parametrize("vocab_size", [1 << 16, (1 << 16) + 1])
def test_16_bits_are_enough_up_to_65536_ids(tmp_path: Path, vocab_size: int) -> None:
    ids, _ = write_tokens(tmp_path / "a", [np.array([vocab_size - 1])], 1, vocab_size)
    assert ids.stat().st_size == (2 if vocab_size == 1 << 16 else 4)


@pytest.mark.parametrize(("pattern", "width"), [("flatten", 1), ("delay", 2)])
def test_all_clips_are_there_in_order(
    make_corpus: Callable[..., Path], made_up_rows: MakeRows, pattern: str, width: int
) -> None:
    tokens = TokenFiles(make_corpus(pattern=pattern))
    rows = made_up_rows(73)
    assert (len(tokens), tokens.tokenizer.pattern, tokens.tokenizer.width) == (73, pattern, width)
    for index in [72, 0, 69, 70, -1]:
        ids = tokens[index]
        assert ids.dtype == np.uint16
        decoded = tokens.tokenizer.decode(torch.from_numpy(ids.astype(np.int64)))
        np.testing.assert_array_equal(decoded.numpy(), rows[index].codes)
    assert tokens.num_steps.tolist() == [ids.shape[-1] for ids in tokens]


def test_ids_are_views_of_the_file_that_cannot_be_written(corpus: Path) -> None:
    ids = TokenFiles(corpus)[3]
    assert not ids.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_it_can_be_sent_to_other_processes_and_takes_no_ids_along(corpus: Path) -> None:
    tokens = TokenFiles(corpus)
    assert tokens[3].size
    sent = pickle.dumps(tokens)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[3], tokens[3])


@pytest.mark.parametrize(
    ("sequence", "width", "message"),
    [
        (np.array([0, 4]), 1, "ids must be from 0 to 3; got 0 to 4"),
        (np.array([-1, 3]), 1, "ids must be from 0 to 3; got -1 to 3"),
        (np.array([[0, 3]]), 1, r"sequence must have shape \[steps\]; got \[1, 2\]"),
        (np.array([[0, 3]]), 2, r"sequence must have shape \[2, steps\]; got \[1, 2\]"),
        (np.array([0, 3]), 2, r"sequence must have shape \[2, steps\]; got \[2\]"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, sequence: NDArray[Any], width: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_tokens(tmp_path / "a", [sequence], width, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "a.idx: not an index of tokens: it must have at least 24 bytes; got 0"),
        (b"RIFF" + HEADER[4:], "it must begin with b'RVQX'; got b'RIFF'"),
        (struct.pack("<4sIIIQqqq", b"RVQX", 2, 2, 1, 2, 0, 2, 3), "version must be 1; got 2"),
        (struct.pack("<4sIIIQqqq", b"RVQX", 1, 8, 1, 2, 0, 2, 3), "2 or 4 bytes, and a step at least one id; got 8, 1"),
        (struct.pack("<4sIIIQqqq", b"RVQX", 1, 2, 0, 2, 0, 2, 3), "2 or 4 bytes, and a step at least one id; got 2, 0"),
        (struct.pack("<4sIIIQ", b"RVQX", 1, 2, 1, 1 << 63), r"it must have \d{20} bytes for \d{19} sequences; got 24"),
        (HEADER + struct.pack("<qqq", 1, 2, 3), "sequences must begin at 0, each where the last one ends"),
        (HEADER + struct.pack("<qqq", 0, 4, 3), "sequences must begin at 0, each where the last one ends"),
        (HEADER + struct.pack("<qqq", 0, -(1 << 63), 3), "sequences must begin at 0, each where the last one ends"),
        (HEADER + struct.pack("<qqq", 0, 2, 4), "a.bin: must have 8 bytes, as its index says; got 6"),
        (HEADER + struct.pack("<qqq", 0, 2, (1 << 63) - 1), r"a.bin: must have \d{20} bytes"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, index: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(6))
    (tmp_path / "a.idx").write_bytes(index)
    with pytest.raises(ValueError, match=message):
        read_index(tmp_path / "a")


def test_lacking_files_and_those_of_another_corpus_are_named(corpus: Path) -> None:
    CodecTokenizer(2, 6, "delay").save_pretrained(corpus)
    with pytest.raises(ValueError, match=r"00.idx: sequences and ids of a step must be \(70, 2\); got \(70, 1\)"):
        TokenFiles(corpus)
    (corpus / "shard-00000.idx").unlink()
    with pytest.raises(ValueError, match=r"shard-00000.idx: cannot be read: No such file"):
        TokenFiles(corpus)
