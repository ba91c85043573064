"""Processes, meshes and the placement of a coder's latents and rows on them."""

from typing import TYPE_CHECKING

from sae_dist.common.lazy import lazily

if TYPE_CHECKING:
    from sae_dist.parallel.axis import Axis as Axis
    from sae_dist.parallel.collectives import MeshCollectives as MeshCollectives
    from sae_dist.parallel.collectives import gather_latents as gather_latents
    from sae_dist.parallel.collectives import set_mesh as set_mesh
    from sae_dist.parallel.config import MeshConfig as MeshConfig
    from sae_dist.parallel.config import SharingConfig as SharingConfig
    from sae_dist.parallel.cost import messages as messages
    from sae_dist.parallel.gradients import backward as backward
    from sae_dist.parallel.gradients import gradient_norm as gradient_norm
    from sae_dist.parallel.machine import MachineConfig as MachineConfig
    from sae_dist.parallel.mesh import Mesh as Mesh
    from sae_dist.parallel.mesh import choose_mesh as choose_mesh
    from sae_dist.parallel.mesh import make_mesh as make_mesh
    from sae_dist.parallel.world import World as World
    from sae_dist.parallel.world import local_device as local_device
    from sae_dist.parallel.world import start_world as start_world

lazily(__name__)
