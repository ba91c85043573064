"""What of a step would make the host wait for a GPU, counted on a CPU."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sae_dist.kernels import dispatch, host

WAITING = {
    *("_local_scalar_dense", "equal", "is_nonzero"),  # the host reads a number
    *("nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive"),
}
"""Operations that wait on CUDA, whose result's shape or range the host must know."""
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Those that do so where an index is a mask."""
KERNELS = ("product", "entries", "sddmm", "spmm", "spmm_t", "update_rows", "round_rows")


class Waits(TorchDispatchMode):
    """Counts them, by operation and by the line of ours that asked; kernels' insides do not count.

    On a GPU those are Triton's, but for `entries`, which waits once for the number it finds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._in_kernel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_mask = name in MASKED and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if not self._in_kernel and (name in WAITING or is_mask):
            self.counts[f"{name} at {_ours()}"] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the host is told that nothing is at hand."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "is_at_hand", lambda x: False)
            for name in KERNELS:
                patch.setattr(dispatch, name, self._as_kernel(name, getattr(dispatch, name)))
            with self:
                yield

    def _as_kernel(self, name: str, function: Any) -> Any:
        def kernel(*args: Any, **kwargs: Any) -> Any:
            self.counts["entries, the number found"] += name == "entries"
            self._in_kernel += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._in_kernel -= 1

        return kernel


def _ours() -> str:
    """File and line of this project's that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if "/sae_dist/" in frame.filename:
            return f"{frame.filename.rpartition('/sae_dist/')[2]}:{frame.lineno}"
    return "elsewhere"
