"""What is asked of a mesh."""

from dataclasses import dataclass

from sae_dist.common.settings import setting


@dataclass(kw_only=True, slots=True)
class MeshConfig:
    """The mesh of a rung. `latent` processes share its latents; the rest of the world is `data`.

    `latent: null` chooses the mesh whose messages take the shortest time among those on which the
    parameters, gradients and moments of a process fit into `memory_gib`; null stands for four
    fifths of `machine.memory_gib`.
    """

    latent: int | None = setting(None, min=1)
    memory_gib: float | None = setting(None, above=0)


@dataclass(kw_only=True, slots=True)
class SharingConfig:
    """`latent` processes share each coder's latents, the others its sequences."""

    latent: int = setting(1, min=1)
