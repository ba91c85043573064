"""Products of floats, FP8 and whole numbers, and how fast each is where there are units for it.

Needs torch alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.figures import Figure, LeftOut
from benchmarks.timing import DEVICE, median_seconds

_TRIED_ROWS, _TRIED_LATENTS = 32, 1024  # of a product that is first seen to be exact, and how fast
_TRIAL_SECONDS = 10.0  # from which on a product is too slow to be measured at its full size


def whole_numbers(bits: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Rounds rows [N, D] to whole numbers of so many bits, and their scales [N, 1]."""
    most = 2 ** (bits - 1) - 1

    def rounded(t_ND: Tensor) -> tuple[Tensor, Tensor]:
        scale_N1 = t_ND.abs().amax(1, keepdim=True).clamp_min(1e-30) / most
        return (t_ND / scale_N1).round_(), scale_N1

    return rounded


def fp8(t_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Rows rounded to FP8 (e4m3), and their scales."""
    scale_N1 = t_ND.abs().amax(1, keepdim=True).clamp_min(1e-30) / 448
    return (t_ND / scale_N1).to(torch.float8_e4m3fn).float(), scale_N1


def floats(dtype: torch.dtype) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Rows rounded to a float, which needs no scale."""
    return lambda t_ND: (t_ND.to(dtype).float(), t_ND.new_ones(len(t_ND), 1))


@dataclass(frozen=True)
class Format:
    """What is multiplied.

    Attributes:
        x, W: round rows, and give their scales.
        u: the rounding of a product that is made.
    """

    x: Callable[[Tensor], tuple[Tensor, Tensor]]
    W: Callable[[Tensor], tuple[Tensor, Tensor]]
    u: float = torch.finfo(torch.float32).eps / 2


_BF16_ROUNDING = torch.finfo(torch.bfloat16).eps / 2
FORMATS = {
    "float32": Format(floats(torch.float32), floats(torch.float32)),
    "bfloat16": Format(floats(torch.bfloat16), floats(torch.bfloat16), _BF16_ROUNDING),
    "int8": Format(whole_numbers(8), whole_numbers(8)),
    "int7 by int8": Format(whole_numbers(7), whole_numbers(8)),
    "fp8": Format(fp8, fp8, _BF16_ROUNDING),
}


# The products there are: from rounded rows [B, D] and [F, D] what multiplies them [B, F].


def plain(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Callable[[], Tensor]]:
    """torch's own product of floats."""

    def prepare(x_BD: Tensor, W_FD: Tensor) -> Callable[[], Tensor]:
        x_BD, W_FD = x_BD.to(dtype), W_FD.to(dtype)
        return lambda: x_BD @ W_FD.T

    return prepare


def int_mm(x_BD: Tensor, W_FD: Tensor) -> Callable[[], Tensor]:
    """`torch._int_mm`: on a CPU oneDNN's product where it has units, a loop elsewhere."""
    x_BD, W_FD = x_BD.to(torch.int8), W_FD.to(torch.int8)
    return lambda: torch._int_mm(x_BD, W_FD.T)


def onednn(x_BD: Tensor, W_FD: Tensor) -> Callable[[], Tensor]:
    """oneDNN's linear of quantised rows, whose x has no sign: a middle is added to it.

    Without units (VNNI, AMX) it adds pairs of products in sixteen bits, which eight bits overflow.
    """
    middle = 64 if x_BD.abs().max() < 64 else 128
    x_BD = (x_BD + middle).to(torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(W_FD.to(torch.int8), None)
    scale_F, zero_F = torch.ones(len(W_FD)), torch.zeros(len(W_FD), dtype=torch.long)
    linear = torch.ops.onednn.qlinear_pointwise.default
    to = (1.0, 0, torch.float32, "none", [], "")
    return lambda: linear(x_BD, 1.0, middle, packed, scale_F, zero_F, None, *to)


def scaled_mm(x_BD: Tensor, W_FD: Tensor) -> Callable[[], Tensor]:
    """`torch._scaled_mm` of FP8, a scale a row."""
    one_B1, one_1F = x_BD.new_ones(len(x_BD), 1), x_BD.new_ones(1, len(W_FD))
    x_BD, W_FD = x_BD.to(torch.float8_e4m3fn), W_FD.to(torch.float8_e4m3fn)
    kwargs = {"scale_a": one_B1, "scale_b": one_1F, "out_dtype": torch.bfloat16}
    return lambda: torch._scaled_mm(x_BD, W_FD.T, **kwargs)


_IS_CUDA = DEVICE == "cuda"
PRODUCTS = {
    ("float32", "torch"): plain(torch.float32),
    ("bfloat16", "torch"): plain(torch.bfloat16),
    ("int8", "torch._int_mm"): int_mm,
    **({} if _IS_CUDA else {("int8", "oneDNN"): onednn, ("int7 by int8", "oneDNN"): onednn}),
    **({("fp8", "torch._scaled_mm"): scaled_mm} if _IS_CUDA else {}),
}


def product_rates(x_BD: Tensor, W_FD: Tensor) -> Iterator[tuple[str, Figure | LeftOut]]:
    """GFLOP/s of each product at the search's shape, and of which format it is.

    Sums of integers that are not exact on a small part are called wrong: those in sixteen bits
    overflow, for want of units. What is very slow there is not measured beyond it.
    """
    flops = 2 * x_BD.shape[1]
    for (name, by), prepare in PRODUCTS.items():
        title = f"product of {name}, {by}"
        rounded_BD, rounded_FD = FORMATS[name].x(x_BD)[0], FORMATS[name].W(W_FD)[0]
        part = rounded_BD[:_TRIED_ROWS], rounded_FD[:_TRIED_LATENTS]
        try:
            multiply = prepare(*part)
            error = (multiply().double() - part[0].double() @ part[1].double().T).abs().max()
            seconds, size = median_seconds(multiply), len(part[0]) * len(part[1])
            times = x_BD.shape[0] * len(W_FD) / size
            if seconds * times < _TRIAL_SECONDS:
                seconds, size = median_seconds(prepare(rounded_BD, rounded_FD)), size * times
        except (RuntimeError, NotImplementedError) as failed:
            yield name, LeftOut(title, str(failed).splitlines()[0][:120])
            continue
        rate = flops * size / seconds / 1e9
        is_wrong = name.startswith("int") and error > 0
        yield name, Figure(f"{title}, wrong" if is_wrong else title, rate, "GFLOP/s")
