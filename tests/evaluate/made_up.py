"""Coders that nobody trained, and figures that nobody measured."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sae_dist.coders import Coder, TopK
from sae_dist.evaluate import EvaluationConfig, PairConfig, Subject, run_coder
from sae_dist.evaluate.measure import Pair
from sae_dist.evaluate.measures.novelty import Novelty
from sae_dist.evaluate.measures.splitting import Splitting
from sae_dist.evaluate.measures.stitching import Stitching
from sae_dist.parallel import Mesh, make_mesh
from tests.processes import alone

Tokens = tuple[Tensor, Tensor, Tensor]


def subject(num_latents: int = 1, width: int = 2, num_positions: int = 4) -> Subject:
    """What a measure must know of a coder whose codes are made up."""
    coder = Coder(TopK(num_latents=num_latents, k=1), width, width)
    return subject_of(coder, num_positions=num_positions)


def subject_of(coder: Coder, mesh: Mesh | None = None, **attributes: Any) -> Subject:
    """A coder under evaluation."""
    mesh = mesh or make_mesh(alone(), 1, {})
    return Subject(coder=coder, mesh=mesh, **({"num_positions": 1} | attributes))


def pair_of(small: Coder, large: Coder, mesh: Mesh | None = None, tau: float = 0.7) -> Pair:
    """Two coders beside each other."""
    config = EvaluationConfig(pairs=PairConfig(tau=tau))
    both = (subject_of(coder, mesh, config=config) for coder in (small, large))
    return Pair(*both)


def compared(pair: Pair, tokens: Iterable[Tokens], few: Iterable[Tokens]) -> dict[str, Any]:
    """What all measures of pairs find, and `by_latent`."""
    novelty, splitting, stitching = Novelty(pair), Splitting(pair), Stitching(pair)
    for measure, parts in ((novelty, tokens), (stitching, few)):
        for part in parts:
            measure.update(*(run_coder(subject.coder, *part) for subject in measure.subjects))
    return novelty.result() | splitting.result() | stitching.result()


def rung(num_latents: int, k: int | None, **figures: Any) -> dict[str, Any]:
    """A TopK autoencoder of one site, or what `figures` makes of it."""
    return {
        "kind": "topk",
        "form": "autoencoder",
        "site": "mlp_out.3",
        "target": "mlp_out.3",
        "num_latents": num_latents,
        "k": k,
        "target_l0": None,
        "d_in": 8,
        "d_out": 8,
        "l0": float(k or 1),
        "fvu": 0.5,
        "dead_share": 0.0,
        **figures,
    }
