"""An optimizer that another package brings: nothing here knows it."""

from pathlib import Path

import pytest
import torch

from sae_dist.apps import cli
from sae_dist.apps.help import help_text
from sae_dist.apps.rungs import lay_out
from sae_dist.coders import load_coder
from sae_dist.common.errors import UserError
from tests.apps.test_own_kind import on_the_path
from tests.processes import alone
from tests.train.ladders import D, make_store, training_run

LION = '''
from dataclasses import dataclass, field

from sae_dist.common.settings import setting
from sae_dist.train import OptimConfig


@dataclass(kw_only=True)
class Lion(OptimConfig):
    """Lion (Chen et al. 2023)."""

    name: str = field(default="lion", init=False)
    beta: float = setting(0.9, min=0, below=1)

    def first_state(self, name, parameter):
        return {"momentum": parameter.new_zeros(parameter.shape)}

    def update(self, step):
        rows_R, grad_RD = step.projected_gradient()
        momentum = step.state["momentum"]
        for w_rD, direction_rD in step.blocks(rows_R, momentum.lerp(grad_RD, 1 - self.beta)):
            w_rD.sub_(direction_rD.sign(), alpha=step.lr)
        momentum.lerp_(grad_RD, 0.01)
'''
LINE = ["store=s", "run=r", "site=in", "coder=topk", "coder.num_latents=32", "coder.k=4"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path / "site"
    (site / "lion-1.dist-info").mkdir(parents=True)
    (site / "lion-1.dist-info" / "METADATA").write_text("Name: lion\nVersion: 1\n")
    point = "[sae_dist.optimizers]\nlion = lion_optimizer:Lion\n"
    (site / "lion-1.dist-info" / "entry_points.txt").write_text(point)
    (site / "lion_optimizer.py").write_text(LION)
    with on_the_path(site, monkeypatch):
        yield


@pytest.mark.usefixtures("installed")
def test_it_is_chosen_explained_trained_and_resumed(tmp_path: Path) -> None:
    assert "Lion (Chen et al. 2023)." in help_text("train", ["optim=lion"])
    grid = "sweep.grids=[{optim:[adam,lion]}]"
    config = cli.compose("train", [*LINE, grid, "optim.beta=0.8", "optim.lr=1e-3"])
    rungs = lay_out(config, {"in": D})
    assert [rung.name for rung in rungs] == ["topk-32-k4-in-adam", "topk-32-k4-in-lion"]
    assert rungs[1].optim.beta == 0.8 and rungs[0].optim.beta2 == 0.999
    store = make_store(tmp_path / "store")
    for run, steps in {"whole": (12,), "resumed": (6, 12)}.items():
        for num in steps:
            training_run(alone(), store, tmp_path / run, rungs, num, every_steps=3).run()
    for rung in rungs:
        whole, resumed = (
            load_coder(tmp_path / run / "coders" / rung.name) for run in ("whole", "resumed")
        )
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), (rung.name, name)


def test_without_its_package_it_is_refused() -> None:
    with pytest.raises(UserError, match="optim=lion; expected one of adam, muon, signum$"):
        cli.compose("train", [*LINE, "optim=lion"])
