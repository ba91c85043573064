"""What a step asks of a GPU, counted on a CPU: where the host would wait, and what is launched."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import sae_dist.coders.passes
from sae_dist.kernels import dispatch, host, search

WAITING = {
    *("_local_scalar_dense", "equal", "is_nonzero"),  # the host reads a number
    *("nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive"),
    *("_coalesce", "to_sparse_csr", "_to_sparse_csr"),
    "lift_fresh",  # what the host wrote is copied, from memory that is not pinned
}
"""Operations that wait on CUDA, whose result's shape or range the host must know."""
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Those that do so where an index is a mask."""
SIZED = {"repeat_interleave": "output_size", "segment_reduce": "unsafe"}
"""Those that do not where this is given."""
NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"),
    *("_sparse_coo_tensor_with_dims_and_tensors", "_indices", "_values", "_coalesced_", "set_"),
    *("is_coalesced", "record_stream", "_unsafe_view"),
}
"""Operations that launch nothing though they give no view."""


class Step(TorchDispatchMode):
    """What steps ask of a device. Triton's programs are one launch each, and are not run: what they
    would write is 0, which changes nothing of what is asked.

    Attributes:
        waits: how often the host would wait, by operation and by the line of ours that asked.
        launches: of kernels, by operation or program; an operation is counted as one.
        asked: the same in their order, each with the shapes of the tensors it was given.
        told: the numbers and words that each was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.launches = Counter[str](), Counter[str]()
        self.asked: list[tuple[Any, ...]] = []
        self.told: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if self._waits(name, args, kwargs):
            self.waits[f"{name} at {_ours()}"] += 1
        if name not in NO_KERNEL and not _is_view(func):
            self._launched(name, args, kwargs)
        given = func(*args, **kwargs)
        return given.zero_() if "empty" in name else given

    def _waits(self, name: str, args: Any, kwargs: Any) -> bool:
        if name in MASKED:
            return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        return not kwargs.get(SIZED[name]) if name in SIZED else name in WAITING

    def _launched(self, name: str, args: Any, kwargs: Any) -> None:
        self.launches[name] += 1
        given = (*enumerate(args), *kwargs.items())
        self.told.append((name, *((k, v) for k, v in given if isinstance(v, int | float | str))))
        self.asked.append((name, *(tuple(a.shape) for a in args if isinstance(a, Tensor))))

    def clear(self) -> None:
        """Count from here on."""
        self.waits.clear(), self.launches.clear(), self.asked.clear(), self.told.clear()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, what decides is told that there is a GPU, with units for bfloat16."""
        interpreter = pytest.importorskip("triton.runtime.interpreter")
        from sae_dist.kernels import triton_product

        def program(executor: Any, *args: Any, **kwargs: Any) -> None:
            self._launched(executor.fn.__name__, args, kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "is_at_hand", lambda x: False)
            patch.setattr(dispatch, "_on_triton", lambda x: True)
            patch.setattr(search, "search_dtype", lambda W_FD: torch.bfloat16)
            patch.setattr(search, "rounded_dtype", lambda W_FD: torch.bfloat16)
            patch.setattr(sae_dist.coders.passes, "rounded_dtype", lambda W_FD: torch.bfloat16)
            patch.setattr(triton_product, "_INTERPRETED", False)
            patch.setattr(interpreter.GridExecutor, "__call__", program)
            with self:
                yield


class Recording(TorchDispatchMode):
    """What is launched inside, in order to be launched again on what then is in the same memory.

    That is what a CUDA graph does; Triton's programs are interpreted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._launched: list[Callable[[], Any]] = []
        self._is_program = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL and not _is_view(func) and not self._is_program:
            again = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}, given))
            self._launched.append(partial(_again, func, *again))
        return given

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, all that is launched is launched and recorded."""
        interpreter = pytest.importorskip("triton.runtime.interpreter")
        run = interpreter.GridExecutor.__call__

        def program(executor: Any, *args: Any, **kwargs: Any) -> None:
            self._launched.append(partial(run, executor, *args, **kwargs))
            self._is_program = True
            run(executor, *args, **kwargs)
            self._is_program = False

        with pytest.MonkeyPatch.context() as patch, self:
            patch.setattr(interpreter.GridExecutor, "__call__", program)
            yield

    @torch.no_grad()
    def replay(self) -> None:
        """Launch it again."""
        for launch in self._launched:
            launch()


def _again(func: Any, args: Any, kwargs: Any, given: Any) -> None:
    """Do an operation, and put what it gives where it gave it before."""
    found = tree_leaves(func(*args, **kwargs))
    for before, now in zip(tree_leaves(given), found, strict=True):
        before.copy_(now)


def _is_view(func: Any) -> bool:
    """Whether what comes back is what was given, unwritten."""
    given = [returned.alias_info for returned in func._schema.returns]
    return bool(given) and all(alias is not None and not alias.is_write for alias in given)


def _ours() -> str:
    """File and line of this project's that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if "/sae_dist/" in frame.filename:
            return f"{frame.filename.rpartition('/sae_dist/')[2]}:{frame.lineno}"
    return "elsewhere"
