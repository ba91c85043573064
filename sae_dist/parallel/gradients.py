"""The gradient of the global batch's loss: reduced over the rows' parts while it is computed."""

from collections import deque

import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.parallel.mesh import Mesh


def backward(loss: Tensor, coder: Coder, mesh: Mesh) -> None:
    """Add up each parameter's gradient over the parts of the batch. Nothing of it crosses latents.

    A matrix' gradient is on its way as soon as autograd has it, while the rest is still being
    computed: first W_skip's, then W_dec's, then W_enc's, whichever autograd has first, so that
    all processes send in one order. The vectors follow in one message.
    """
    if mesh.data.size == 1:
        loss.backward()
        return
    matrices = [p for p in reversed(list(coder.parameters())) if p.dim() == 2]
    vectors = [p for p in coder.parameters() if p.dim() == 1]
    waiting, ready, sums = deque(matrices), set(), []

    def send(parameter: Tensor) -> None:
        ready.add(id(parameter))
        while waiting and id(waiting[0]) in ready:
            sums.append(mesh.data.start_all_reduce(_gradient(waiting.popleft())))

    hooks = [matrix.register_post_accumulate_grad_hook(send) for matrix in matrices]
    try:
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    joined = torch.cat([_gradient(vector) for vector in vectors])
    sums.append(mesh.data.start_all_reduce(joined))
    for work in sums:
        work.wait()
    for vector, total in zip(vectors, joined.split([len(v) for v in vectors]), strict=True):
        vector.grad = total


def gradient_norm(norms: dict[str, Tensor], coder: Coder, mesh: Mesh) -> Tensor:
    """The norm of a whole gradient from the norms of its parts here, by parameter."""
    if mesh.latent.size == 1:
        return _joint_norm(list(norms.values()))
    sliced = coder.latent_tensors
    in_slices = _joint_norm([norm for name, norm in norms.items() if name in sliced])
    shared = _joint_norm([norm for name, norm in norms.items() if name not in sliced])
    return (mesh.latent.all_reduce(in_slices.square()) + shared.square()).sqrt()


def _joint_norm(norms: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(norms))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
