"""What numbers a machine is fast with."""

import torch


def choose_precision(name: str, device: torch.device) -> str:
    """Resolve "auto": bfloat16 where the hardware has instructions for it, else float32.

    Without them it is emulated, and slower than float32: on a Xeon of 2.8 GHz with AVX-512 alone, a matrix product
    takes about three times as long.

    Args:
        name: "auto", or what Accelerate calls a precision ("bf16", "fp16", "no"), which is returned as it is.
        device: Where it is trained.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    # torch 2.11 has no such list.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "no"
