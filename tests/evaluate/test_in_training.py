from dataclasses import replace
from pathlib import Path

import pytest

from sae_dist.apps.checkpointed import checkpointed
from sae_dist.common.errors import UserError
from sae_dist.evaluate import EvaluationConfig, evaluate, finished
from sae_dist.evaluate.in_training import lm_figures
from sae_dist.store import open_store
from sae_dist.stream import StoredActivations
from tests.evaluate.test_evaluator import tiny_lm
from tests.harvest.tiny import tiny_harvest
from tests.processes import alone
from tests.train.ladders import rung, training_run

CONFIG = EvaluationConfig(lm_sequences=4, uniformity_sequences=0)


def test_a_run_in_training_is_measured_by_its_checkpoint(tmp_path: Path) -> None:
    """As its coders are once they are written, and as the loop is told beside training."""
    tiny_harvest(tmp_path / "store")
    source = StoredActivations(open_store(tmp_path / "store"))
    here = {"site": "resid_post.1", "target": "resid_post.1"}
    rungs = [replace(rung(kind), **here) for kind in ("batchtopk", "jumprelu")]
    run = tmp_path / "run"
    training = training_run(alone(), tmp_path / "store", run, rungs, 3)
    training.run()
    (expected,) = evaluate(finished(run, alone().device), source, tiny_lm, CONFIG, alone())
    (found,) = evaluate(checkpointed(run, None, alone()), source, tiny_lm, CONFIG, alone())
    beside = lm_figures(source, tiny_lm, CONFIG)(training.rungs, 3)
    for name, figures in expected["rungs"].items():
        for key in ("l0", "fvu", "dead_share", "delta_loss", "loss_recovered"):
            assert found["rungs"][name][key] == pytest.approx(figures[key], rel=1e-4, abs=1e-6)
        assert beside[name] == {
            f"validation/{key}": pytest.approx(figures[key], rel=1e-4, abs=1e-6)
            for key in ("delta_loss", "loss_recovered")
        }
    with pytest.raises(UserError, match="found no checkpoint of step=2 in .*; expected one of st"):
        checkpointed(run, 2, alone())
