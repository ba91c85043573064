"""The three float formats of stored activations, as numpy holds them and as torch computes them."""

from enum import StrEnum

import numpy as np
import torch


class FloatDtype(StrEnum):
    """Format of stored activations. numpy has no bfloat16: its bits travel as uint16."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"

    @property
    def compute(self) -> torch.dtype:
        """The torch dtype of that name."""
        by_name = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
        return by_name[self]

    @property
    def storage(self) -> np.dtype:
        """The numpy dtype that holds it on disk."""
        return np.dtype("uint16" if self is FloatDtype.bfloat16 else self.value)


def to_storage(x: torch.Tensor, dtype: FloatDtype) -> np.ndarray:
    """Round a CPU tensor to `dtype` and give its stored form (bfloat16: its bits)."""
    rounded = x.to(dtype.compute).contiguous()
    return (rounded.view(torch.uint16) if dtype is FloatDtype.bfloat16 else rounded).numpy()


def from_storage(array: np.ndarray, dtype: FloatDtype) -> torch.Tensor:
    """View a stored array as a tensor of `dtype`; no copy."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype is FloatDtype.bfloat16 else tensor
