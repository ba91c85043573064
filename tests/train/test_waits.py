"""How often a step would make the host wait for a GPU: not more often than the search must."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from sae_dist.parallel import make_mesh
from sae_dist.train import Adam, Rung, SharedRows, training_step
from sae_dist.train.config import Precision
from tests.processes import alone
from tests.train.ladders import D, rung
from tests.train.waits import Waits

AUX = {"aux_coefficient": 1 / 32}
AT_MOST = [("topk", {}, 5), ("topk", AUX, 6), ("batchtopk", {}, 4), ("jumprelu", {}, 2)]


def waits_of_a_step(kind: str, more: dict[str, float]) -> Counter[str]:
    """Of the fourth one, with a quarter of the latents dead where AuxK reads them."""
    config = replace(rung(kind, **more), site="in", target="in")
    config = replace(config, optim=Adam(beta1=0.9, clip_norm=1.0))
    world = alone()
    trained = Rung(config, make_mesh(world, 1, {}), 1.0, D, D, Precision.float32, world.device)
    x_BD = torch.randn(64, D, generator=torch.Generator().manual_seed(0))
    trained.initialise(0, x_BD, x_BD)
    if kind == "jumprelu":  # few fire, so that it is searched and not multiplied densely
        with torch.no_grad():
            z_BF = trained.coder.pre_activations(x_BD)
            trained.coder.threshold.fill_(float(z_BF.quantile(0.95)))
    for step in range(3):
        training_step(trained, SharedRows({"in": x_BD}, torch.float32), step, 100)
    if more:
        trained.counters.silent_F[::4] = config.coder.dead_after_tokens
    waits = Waits()
    with waits.watching():
        for step in range(3, 5):
            waits.counts.clear()
            training_step(trained, SharedRows({"in": x_BD}, torch.float32), step, 100)
    return waits.counts


@pytest.mark.parametrize(("kind", "more", "at_most"), AT_MOST, ids=str)
def test_only_the_search_waits(kind: str, more: dict[str, float], at_most: int) -> None:
    counts = waits_of_a_step(kind, more)
    assert 0 < sum(counts.values()) <= at_most, counts
    assert not [place for place in counts if "train/" in place], counts
