"""How a tensor that lies on a mesh is described to torch's distributed checkpointing."""

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard


def on_mesh(tensor: Tensor, devices: DeviceMesh, *, is_slice: bool) -> DTensor:
    """Describe this process' tensor as its part of a whole on a `data × latent` mesh.

    A slice has a row a latent, of which each process of the latent axis holds its part; anything
    else is the same everywhere. Loading into the result fills `tensor` itself, whatever the mesh
    the checkpoint was saved on.
    """
    latent = Shard(0) if is_slice else Replicate()
    return DTensor.from_local(tensor.detach(), devices, [Replicate(), latent], run_check=False)
