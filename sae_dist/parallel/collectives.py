"""A coder's latents and rows on a mesh: the one file that applies parallelism to a coder."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sae_dist.coders import Coder
from sae_dist.coders.files import Rows, in_file_order, rows_at_once
from sae_dist.parallel.axis import Axis
from sae_dist.parallel.mesh import Mesh


class _Arrival(torch.autograd.Function):
    """Wait for a sum that was begun; the gradient is passed on as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, total: Tensor, work: dist.Work) -> Tensor:
        work.wait()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class _SumBackward(torch.autograd.Function):
    """Identity; the gradient is summed over an axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.axis.all_reduce(grad), None


def _start_sum(x: Tensor, axis: Axis) -> Callable[[], Tensor]:
    """Begin to sum over an axis; call what is returned for the sum, whose gradient is x's."""
    if axis.size == 1:
        return lambda: x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    work = axis.start_all_reduce(total)
    return lambda: _Arrival.apply(x, total, work)


@dataclass(frozen=True, slots=True)
class MeshCollectives:
    """`coders.Collectives` on a mesh: latents over one axis, rows over the other."""

    mesh: Mesh

    @property
    def num_parts(self) -> int:
        return self.mesh.data.size

    @property
    def num_slices(self) -> int:
        return self.mesh.latent.size

    def to_latents(self, x: Tensor) -> Tensor:
        return _SumBackward.apply(x, self.mesh.latent)

    def sum_latents(self, y: Tensor) -> Tensor:
        return _start_sum(y, self.mesh.latent)()

    def start_sum_latents(self, y: Tensor) -> Callable[[], Tensor]:
        return _start_sum(y, self.mesh.latent)

    def sum_rows(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.num_parts == 1:
            return sums
        joined = torch.cat([v.flatten() for v in sums.values()])
        joined = _start_sum(joined, self.mesh.data)()
        totals = joined.split([v.numel() for v in sums.values()])
        return {name: t.view_as(v) for (name, v), t in zip(sums.items(), totals, strict=True)}

    def count(self, counts: Tensor) -> Tensor:
        return self.mesh.world.all_reduce(counts)

    def all_min(self, v: Tensor) -> Tensor:
        return self.mesh.world.all_min(v)

    def all_gather_latents(self, v_BK: Tensor) -> Tensor:
        return self.mesh.latent.all_gather(v_BK, dim=1)

    def exclusive_sum_latents(self, v: Tensor) -> Tensor:
        return self.mesh.latent.exclusive_sum(v)

    def exclusive_sum_rows(self, v: Tensor) -> Tensor:
        return self.mesh.data.exclusive_sum(v)


def set_mesh(coder: Coder, mesh: Mesh) -> Coder:
    """Tell a coder that holds its slice of the latents where the others are."""
    coder.collectives = MeshCollectives(mesh)
    return coder


def gather_latents(coder: Coder, mesh: Mesh) -> dict[str, Tensor | Rows] | None:
    """All latents' weights, for `save_coder` at the first process of the latent axis.

    Its rows come block by block from the others, for whom this returns None when all are sent.
    """
    tensors: dict[str, Tensor | Rows] = dict(coder.state_dict())
    for name in in_file_order(tensors):
        if name not in coder.latent_tensors:
            continue
        own = coder.state_dict()[name]
        blocks = mesh.latent.gather_blocks(own, rows_at_once(own))
        if mesh.latent.index == 0:
            shape = len(own) * mesh.latent.size, *own.shape[1:]
            tensors[name] = Rows(shape, own.dtype, blocks)
        else:
            deque(blocks, maxlen=0)
    return tensors if mesh.latent.index == 0 else None
