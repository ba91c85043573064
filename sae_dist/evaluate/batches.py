"""Held-out sequences for one process of a mesh, under a progress bar."""

from collections.abc import Iterator

from sae_dist.common.log import progress
from sae_dist.parallel import Mesh
from sae_dist.stream import ActivationSource, HeldOutBatch


def held_out_batches(
    source: ActivationSource, sites: list[str], most: int | None, size: int, mesh: Mesh, desc: str
) -> Iterator[HeldOutBatch]:
    """This part's batches of the first sequences, `size` at once, with a progress bar over all."""
    total = min(source.num_held_out, most or source.num_held_out)
    batches = source.held_out(sites, mesh.data.index, mesh.data.size, most, size)
    with progress(total=total, desc=desc, unit="sequence") as bar:
        for batch in batches:
            yield batch
            bar.update(min(len(batch) * mesh.data.size, total - bar.n))
