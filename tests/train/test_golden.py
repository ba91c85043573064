"""Losses of every kind and form that a change of shape must leave as they are.

They were written once; after a change of what is computed they are written again, and the commit
says why:

    python -m tests.train.test_golden
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sae_dist.parallel import World
from tests.processes import alone
from tests.train.ladders import every_rung, make_store, rung, training_run

STEPS = 20
GOLDEN = Path(__file__).with_suffix(".json")


def losses(world: World, folder: Path) -> dict[str, list[float]]:
    """Each rung's loss at each step, in float64."""
    more = {
        "multi_topk": rung("topk", multi_topk=True),
        "multi_batchtopk": rung("batchtopk", multi_topk=True),
        "target_l0": rung("jumprelu", target_l0=3.0),
    }
    rungs = [*every_rung(latent=1), *(replace(one, name=name) for name, one in more.items())]
    training_run(world, make_store(folder / "store"), folder / "run", rungs, STEPS).run()
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    names = {line["rung"] for line in lines if line["rung"]}
    return {
        name: [line["loss"] for line in lines if line["rung"] == name] for name in sorted(names)
    }


def test_twenty_steps_of_every_kind_and_form_lose_what_they_did(tmp_path: Path) -> None:
    found = losses(alone(), tmp_path)
    golden = json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for name, expected in golden.items():
        assert len(expected) == STEPS
        assert found[name] == pytest.approx(expected, rel=1e-6), name


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(losses(alone(), Path(folder))) + "\n")
