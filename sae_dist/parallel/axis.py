"""One axis of a mesh: a group of processes, its collectives, and the bytes they cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renames it, and warns at every call of the older name
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(slots=True)
class Axis:
    """The processes along one axis of a mesh, as one of them sees it.

    Attributes:
        group: their process group; None where this process is alone on the axis.
        index, size: this process' place on the axis, and the axis' length.
        bytes_sent, num_messages: what this process has handed to the axis' collectives so far, in
            bytes and in calls.
    """

    group: dist.ProcessGroup | None = None
    index: int = 0
    size: int = 1
    bytes_sent: int = field(default=0, compare=False)
    num_messages: int = field(default=0, compare=False)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum over the axis, as a new tensor (the same one where this process is alone)."""
        if self.size == 1:
            return x
        total = x.detach().clone(memory_format=torch.contiguous_format)
        self._count(total)
        dist.all_reduce(total, group=self.group)
        return total

    def start_all_reduce(self, x: Tensor) -> dist.Work:
        """Begin to sum a contiguous tensor over the axis, in place; there after `wait()`.

        For an axis of more than one process. On GPUs `wait()` holds up the stream, not the host.
        """
        self._count(x)
        work = dist.all_reduce(x, group=self.group, async_op=True)
        assert work is not None
        return work

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        """Every process' tensor (all of one shape), side by side along `dim` in the axis' order."""
        if self.size == 1:
            return x
        parts = self._gather(x)
        return parts.flatten(0, 1) if dim == 0 else torch.cat(list(parts), dim)

    def start_all_gather(self, x: Tensor) -> Callable[[], Tensor]:
        """Begin to `all_gather` along dim 0; call what is returned to wait for it and count it."""
        if self.size == 1:
            return lambda: x
        gathered = self._start_gather(x)
        return lambda: gathered().flatten(0, 1)

    def all_gather_uneven(self, x: Tensor) -> Tensor:
        """As `all_gather` along the first dim, of which each process may have more or fewer."""
        if self.size == 1:
            return x
        lengths = self.all_gather(torch.tensor([len(x)], device=x.device)).tolist()
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = self._gather(padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def each_slice(self, x: Tensor) -> Iterator[Tensor]:
        """Every process' tensor (all of one shape) in the axis' order; only one is held at a time.

        All processes must use up the iterator.
        """
        x = x.detach().contiguous()
        for index in range(self.size):
            part = x if index == self.index else torch.empty_like(x)
            if self.size > 1:
                if index == self.index:
                    self._count(x)
                dist.broadcast(part, group=self.group, group_src=index)
            yield part

    def gather_blocks(self, x: Tensor, num_rows: int) -> Iterator[Tensor]:
        """Every process' rows (equally many) in the axis' order, `num_rows` at once, for the first.

        The others send theirs as they use up the iterator, which gives them nothing.
        """
        for index in range(self.size):
            for block in x.detach().contiguous().split(num_rows):
                if self.index == index != 0:
                    self._count(block)
                    dist.send(block, group=self.group, group_dst=0)
                elif self.index == 0:
                    if index != 0:
                        block = torch.empty_like(block)
                        dist.recv(block, group=self.group, group_src=index)
                    yield block

    def all_min(self, x: Tensor) -> Tensor:
        """Elementwise minimum over the axis, as a new tensor."""
        least = x.detach().clone()
        if self.size > 1:
            self._count(x)
            dist.all_reduce(least, dist.ReduceOp.MIN, group=self.group)
        return least

    def exclusive_sum(self, x: Tensor) -> Tensor:
        """Sum over the processes that come before this one on the axis."""
        if self.size == 1:
            return torch.zeros_like(x)
        return self._gather(x)[: self.index].sum(0, dtype=x.dtype)

    def _gather(self, x: Tensor) -> Tensor:
        """Every process' tensor, stacked in the axis' order [size, …]."""
        return self._start_gather(x)()

    def _start_gather(self, x: Tensor) -> Callable[[], Tensor]:
        """Begin to `_gather`; calling what is returned waits for it, and counts it."""
        x = x.detach().contiguous()
        parts = x.new_empty(self.size, *x.shape)
        work = _all_gather(parts.view(-1), x.view(-1), group=self.group, async_op=True)

        def arrived() -> Tensor:
            work.wait()
            self._count(x)
            return parts

        return arrived

    def _count(self, x: Tensor) -> None:
        self.bytes_sent += x.numel() * x.element_size()
        self.num_messages += 1
