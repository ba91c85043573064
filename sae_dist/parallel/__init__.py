"""Processes, meshes and the placement of a coder's latents and rows on them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.parallel.axis import Axis
    from sae_dist.parallel.collectives import MeshCollectives, gather_latents, set_mesh
    from sae_dist.parallel.config import MeshConfig
    from sae_dist.parallel.cost import messages
    from sae_dist.parallel.gradients import backward, gradient_norm
    from sae_dist.parallel.mesh import Mesh, choose_mesh, make_mesh
    from sae_dist.parallel.world import World, local_device, start_world

__all__ = [
    "Axis",
    "Mesh",
    "MeshConfig",
    "MeshCollectives",
    "World",
    "backward",
    "choose_mesh",
    "set_mesh",
    "gather_latents",
    "gradient_norm",
    "local_device",
    "make_mesh",
    "messages",
    "start_world",
]

lazily(__name__)
