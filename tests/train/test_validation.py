"""What is measured beside training: held-out figures, what an app adds to them, and a trace."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sae_dist.coders import Coder, Form, kind_names, load_coder
from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.store import open_store, write_store
from sae_dist.stream import HeldOutPart, StoredActivations
from sae_dist.train import Rung
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, make_store, rung, training_run

TOKENS, STEPS = 256, 7


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store")


def count_latents(rungs: Sequence[Rung], step: int) -> dict[str, dict[str, object]]:
    """What an app may add."""
    assert not any(rung.coder.training for rung in rungs)
    return {rung.name: {"validation/held": torch.tensor(len(rung.coder.b_enc))} for rung in rungs}


def train(world: World, store: Path, folder: Path, latent: int) -> None:
    rungs = [rung(kind, latent=latent) for kind in kind_names()]
    rungs.append(rung("topk", Form.transcoder, latent))
    log = {"evaluate_every_steps": 3, "evaluate_tokens": TOKENS}
    settings = {"log": log, "evaluate": count_latents, "profile": True}
    training_run(world, store, folder, rungs, STEPS, **settings).run()


def held_out_figures(coder: Coder, store: Path, site: str, target: str) -> dict[str, float]:
    """By the exported coder, on raw activations, densely."""
    source = StoredActivations(open_store(store))
    num = -(-TOKENS // source.sequence_length)
    batches = list(source.held_out([site, target], HeldOutPart(0, 1, num, num)))
    x_ND, y_NE = (
        torch.cat([batch.acts[name][batch.trainable] for batch in batches]).double()
        for name in (site, target)
    )
    assert len(x_ND) >= TOKENS // 2
    acts_NF = coder.double().encode(x_ND)
    error = (y_NE - coder(x_ND)).square().sum()
    return {
        "validation/fvu": float(error / (y_NE - y_NE.mean(0)).square().sum()),
        "validation/l0": float((acts_NF != 0).sum() / len(x_ND)),
        "validation/dead_share": float((~(acts_NF != 0).any(0)).double().mean()),
    }


@pytest.mark.parametrize(("world", "latent"), [(1, 1), (4, 2)])
def test_held_out_figures_are_those_of_the_exported_coder(
    store: Path, tmp_path: Path, world: int, latent: int
) -> None:
    run_on(world, train, store, tmp_path, latent)
    logged = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    measured = [line for line in logged if "validation/fvu" in line]
    assert {line["step"] for line in measured} == {2, 5, STEPS - 1}
    assert all(line["validation/held"] == 32 // latent for line in measured)
    last = [line for line in measured if line["step"] == STEPS - 1]
    assert len(last) == len(kind_names()) + 1
    for line in last:
        coder = load_coder(tmp_path / "coders" / line["rung"])
        target = "in" if "autoencoder" in line["rung"] else "out"
        expected = held_out_figures(coder, store, "in", target)
        assert {name: line[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    for rank in range(world):
        trace = json.loads((tmp_path / f"profile/rank-{rank}.json").read_text())
        assert any("ProfilerStep" in event.get("name", "") for event in trace["traceEvents"])


def test_nothing_held_out_is_refused(tmp_path: Path) -> None:
    x_ND = torch.randn(4 * BATCH, 16, generator=torch.Generator().manual_seed(0)).numpy()
    write_store(tmp_path / "store", {"in": [x_ND]}, dtype="float32", held_out=0.0)
    log = {"evaluate_every_steps": 5}
    with pytest.raises(UserError, match="evaluate_every_steps=5, but found no held-out"):
        training_run(alone(), tmp_path / "store", tmp_path, [rung("topk")], 2, log=log)
