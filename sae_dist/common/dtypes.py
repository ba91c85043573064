"""The formats of stored activations, as numpy holds them and as torch computes them."""

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a configuration is read without it
    import torch


class FloatDtype(StrEnum):
    """Format of stored activations. numpy has no bfloat16: its bits travel as uint16.

    `int8` is a way to store bfloat16 (`store/unit.py`); in memory it is bfloat16.
    """

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"
    int8 = "int8"

    @property
    def compute(self) -> "torch.dtype":
        """The torch dtype in which values are in memory."""
        import torch

        by_name = {"float16": torch.float16, "float32": torch.float32}
        return by_name.get(self, torch.bfloat16)

    @property
    def storage(self) -> np.dtype:
        """The numpy dtype in which a store takes values and gives them back."""
        is_bfloat16 = self in (FloatDtype.bfloat16, FloatDtype.int8)
        return np.dtype("uint16" if is_bfloat16 else self.value)

    @property
    def disk(self) -> np.dtype:
        """The numpy dtype of the values in a store's files."""
        return np.dtype("int8") if self is FloatDtype.int8 else self.storage


def to_storage(x: "torch.Tensor", dtype: FloatDtype) -> np.ndarray:
    """Round a CPU tensor to `dtype` and give its stored form (bfloat16: its bits)."""
    import torch

    rounded = x.to(dtype.compute).contiguous()
    return (rounded.view(torch.uint16) if dtype.compute is torch.bfloat16 else rounded).numpy()


def from_storage(array: np.ndarray, dtype: FloatDtype) -> "torch.Tensor":
    """View a stored array as a tensor of `dtype`; no copy."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype.compute is torch.bfloat16 else tensor
