"""What a CPU does faster, tried once."""

import time
from functools import cache
from typing import Any

import torch


@cache
def multiplies_bfloat16_faster() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32.

    With AVX-512's units for it alone, without AMX, an Intel Xeon was seen to do it at two thirds of
    float32's rate, and an AMD EPYC at twice. Without units it is emulated.
    """
    # Older versions of torch cannot say.
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_units = any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    has_units = has_units or torch.cpu._is_avx512_bf16_supported()
    return has_units and _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The least of some that a product of 1.6 GFLOP takes."""
    x_BD, W_FD = (torch.ones(n, 768, dtype=dtype) for n in (512, 2048))

    def once() -> float:
        begin = time.perf_counter()
        x_BD @ W_FD.T
        return time.perf_counter() - begin

    return min(once() for _ in range(5))
