"""Which precision is chosen where."""

import pytest
import torch

from codec.train.precision import choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["bf16", "fp16", "no", "fp8000"])
def test_a_precision_that_is_asked_for_is_taken(name: str) -> None:
    assert choose_precision(name, CPU) == name


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "no"),
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({}, "no"),
    ],
)
def test_auto_is_bfloat16_where_a_cpu_has_instructions_for_it(monkeypatch, capabilities, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == expected


def test_auto_is_what_this_machine_says() -> None:
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    assert (choose_precision("auto", CPU) == "bf16") == any(flags.get(name) for name in ("avx512_bf16", "amx_bf16"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_is_bfloat16_on_a_gpu_that_has_it() -> None:
    has = torch.cuda.get_device_capability() >= (8, 0)
    assert choose_precision("auto", torch.device("cuda")) == ("bf16" if has else "no")
