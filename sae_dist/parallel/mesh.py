"""`data × latent` meshes over the processes of a run."""

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from sae_dist.coders import CoderConfig
from sae_dist.common.errors import UserError
from sae_dist.parallel.axis import Axis
from sae_dist.parallel.config import MeshConfig
from sae_dist.parallel.cost import ADAM, UpdateCost, message_seconds, messages
from sae_dist.parallel.machine import MachineConfig
from sae_dist.parallel.world import World

_FLOAT32 = 4
_HELD_SHARE = 0.8  # of a device's memory: the rest is for rows and products


@dataclass(frozen=True, slots=True)
class Mesh:
    """A `data × latent` mesh as one process sees it; latent.index is what its rank counts first.

    `world` is all its processes as one axis, for what is summed over both.
    """

    data: Axis
    latent: Axis
    world: Axis
    devices: DeviceMesh

    @property
    def bytes_sent(self) -> int:
        """Bytes this process has handed to collectives on all axes."""
        return self.data.bytes_sent + self.latent.bytes_sent + self.world.bytes_sent

    def __str__(self) -> str:
        return f"{self.data.size}×{self.latent.size}"


def choose_mesh(
    config: MeshConfig,
    machine: MachineConfig,
    world: int,
    coder: CoderConfig,
    d_in: int,
    d_out: int,
    batch_tokens: int,
    update: UpdateCost = ADAM,
) -> int:
    """The length of the latent axis for a coder, as `config` states it.

    Without a length: of those that fit the devices' memory the one whose messages take the shortest
    time on `machine` (see `cost.message_seconds`), on `world` of its devices.

    Raises:
        UserError: the given axis fits neither world nor latents, or the coder fits no mesh.
    """
    num_latents = coder.num_latents
    fitting = [n for n in range(1, world + 1) if world % n == 0 and num_latents % n == 0]
    if config.latent is not None:
        if config.latent not in fitting:
            raise UserError(
                f"parallel.latent={config.latent} must divide the world ({world} processes) and "
                f"the latents ({num_latents}): choose one of {fitting}"
            )
        return config.latent
    values = num_latents * (d_in + d_out) * (2 + update.num_kept)  # weights, gradients, and kept
    memory = values * _FLOAT32
    memory_gib = config.memory_gib or _HELD_SHARE * machine.memory_gib
    roomy = [n for n in fitting if memory / n <= memory_gib * 2**30]
    if not roomy:
        least = memory / max(fitting) / 2**30
        raise UserError(
            f"{num_latents} latents need {least:.0f} GiB on each of {world} processes, more than "
            f"parallel.memory_gib={memory_gib:g}: start more processes, or raise it where "
            "devices hold more"
        )

    def seconds(latent: int) -> float:
        mesh = world // latent, latent
        step = messages(coder, d_in, d_out, batch_tokens, mesh, update=update)
        return message_seconds(step, mesh, machine)

    return min(roomy, key=seconds)


def make_mesh(world: World, latent: int, known: dict[int, DeviceMesh]) -> Mesh:
    """A mesh with `latent` processes on the latent axis.

    `known` keeps the process groups of the meshes made so far, by that length: rungs of equal
    shape share them. All processes must call this in the same order.
    """
    if latent not in known:
        known[latent] = init_device_mesh(
            world.device.type, (world.size // latent, latent), mesh_dim_names=("data", "latent")
        )
    devices = known[latent]
    axes = [
        Axis(devices.get_group(name), devices.get_local_rank(name), devices.size(dim))
        for dim, name in enumerate(("data", "latent"))
    ]
    everyone = Axis(dist.group.WORLD, world.rank, world.size)
    return Mesh(axes[0], axes[1], everyone, devices)
