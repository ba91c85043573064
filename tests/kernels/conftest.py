"""Where Triton's interpreter would not give what a GPU gives."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def mended_interpreter() -> Iterator[None]:
    """Rounds float32 to bfloat16 as a GPU does, to nearest, where the interpreter cuts off.

    And ranges may end at a number of the kernel, which with Triton 3.6 and numpy 2.4 fails.
    """
    try:
        import triton.language as tl
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    convert, patch_tensor = interpreter._convert_float, interpreter._patch_lang_tensor

    def rounding(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        return torch.from_numpy(np.array(data)).bfloat16().view(torch.uint16).numpy()

    def converting(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", rounding)
        patch.setattr(interpreter, "_patch_lang_tensor", converting)
        yield
