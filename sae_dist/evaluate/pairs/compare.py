"""All that is said of a smaller and a larger coder of one site."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.coders import Coder, FiresBy
from sae_dist.common.files import write_atomic
from sae_dist.evaluate.output import run_coder
from sae_dist.evaluate.pairs.cosine import alike, nearest
from sae_dist.evaluate.pairs.insertion import Insertion
from sae_dist.evaluate.pairs.stitching import Stitching, plan
from sae_dist.parallel import Mesh

Batches = Iterable[tuple[Tensor, Tensor, Tensor]]


def compare(
    small: Coder,
    large: Coder,
    batches: Batches,
    few: Batches,
    tau: float,
    mesh: Mesh,
    to: Path | None = None,
) -> dict[str, Any]:
    """Compare two coders, or this process' slices of them, on this part's batches of (x_NSD, y_NSE,
    trainable_NS): on the first ones for insertion, on those of `few` for stitching. No coder is
    ever gathered.

    Latents that fire by rank do so as each coder by itself selects them; where there are
    thresholds, they fire whatever else is in the coder. `selection` says which.

    What is known latent by latent is written `to` a file, if one is given.
    """
    axis = mesh.latent
    near = nearest(large.W_dec, small.W_dec, axis)
    insertion = Insertion(small, large, near, tau, mesh)
    edges_2N = alike(large.W_dec, small.W_dec, tau, axis)
    edges_2N[0] += large.latents.start
    order = plan(axis.all_gather(near.cosine_G), edges_2N, small.config.num_latents, tau, axis)
    stitching = Stitching(small, large, order, mesh)
    for measure, parts in ((insertion, batches), (stitching, few)):
        for part in parts:
            measure.update(run_coder(small, *part), run_coder(large, *part))
    if to is not None:
        by_latent = {name: v.cpu() for name, v in insertion.by_latent().items()}
        on_first_rank(None, lambda: _write(to, by_latent))
    selection = "own_top_k" if large.config.fires_by is FiresBy.rank else "threshold"
    return {**insertion.result(), "selection": selection, "stitching": stitching.result()}


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors))
