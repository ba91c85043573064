"""A kind that another package brings, as the guide makes it: nothing here knows it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sae_dist.apps import cli
from sae_dist.apps.choices import FAMILIES
from sae_dist.apps.export import require_holds
from sae_dist.apps.help import help_text
from sae_dist.apps.rungs import lay_out
from sae_dist.coders import Coder, Form, config_of, kind_named, load_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate import EvaluationConfig, evaluate, finished
from sae_dist.interop import all_formats, format_named
from sae_dist.parallel import MachineConfig, SharingConfig, World
from sae_dist.plan.rung import plan_rung
from sae_dist.store import open_store
from sae_dist.stream import StoredActivations
from sae_dist.train import RungConfig
from tests.processes import alone, run_on
from tests.train.ladders import BATCH, E, make_store, training_run
from tests.train.ladders import D as WIDTH

GUIDE = Path(__file__).parents[2] / "docs/guides/your_own_kind.md"
NAME = "signed_topk-32-k4-in"
LINE = ("store=s", "run=r", "site=in", "coder=signed_topk", "coder.num_latents=32", "coder.k=4")
LINE += ("optim.lr=0.003", "optim.beta1=0.9", "optim.warmup_steps=5")


def block(language: str) -> str:
    """The first block of the guide in a language."""
    return re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the guide's package is installed, by pip."""
    package, site = (tmp_path_factory.mktemp(name) for name in ("package", "site"))
    (package / "signed_topk.py").write_text(block("python"))
    (package / "pyproject.toml").write_text(block("toml"))
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(package)], check=True)
    return site


@contextmanager
def on_the_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With what is in a folder of packages as if it had been there from the start."""

    def forget() -> None:
        for family in FAMILIES.values():
            vars(family).pop("_homes", None)
        for cache in (cli._of_files, cli.keys, cli.choices):
            cache.cache_clear()

    forget()
    with monkeypatch.context() as patched:
        patched.syspath_prepend(site)
        yield
    forget()


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch):
    with on_the_path(site, monkeypatch):
        yield


def rung(*more: str) -> RungConfig:
    """The rung that a command line asks for."""
    line = [*LINE, *more]
    return lay_out(cli.compose("train", line), {"in": WIDTH, "out": E})[0]


def trained(world: World, store: Path, folder: Path, *steps: int) -> None:
    rungs = [rung(f"parallel.latent={world.size}")]
    for num in steps:
        training_run(world, store, folder, rungs, num, every_steps=10).run()


def measured(world: World, store: Path, folder: Path) -> dict:
    source = StoredActivations(open_store(store))
    config = EvaluationConfig(parallel=SharingConfig(latent=world.size))
    results = evaluate(finished(folder, world.device), source, None, config, world)
    return results[0]["rungs"][NAME]


@pytest.mark.usefixtures("installed")
def test_it_is_trained_in_slices_resumed_measured_and_loaded(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    trained(alone(), store, tmp_path / "one", 30)
    run_on(2, trained, store, tmp_path / "whole", 30)
    run_on(2, trained, store, tmp_path / "resumed", 15, 30)
    one, whole, resumed = (
        load_coder(tmp_path / run / "coders" / NAME) for run in ("one", "whole", "resumed")
    )
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
        torch.testing.assert_close(tensor, one.state_dict()[name], rtol=1e-6, atol=1e-9)
    x_BD = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))
    acts_BF = whole.double().encode(x_BD.double())
    assert ((acts_BF != 0).sum(1) == 4).all() and (acts_BF < 0).any() and (acts_BF > 0).any()
    figures = run_on(2, measured, store, tmp_path / "whole")[0]
    assert (figures["kind"], figures["k"], figures["l0"]) == ("signed_topk", 4, 4.0)
    assert figures["fvu"] < 0.9


@pytest.mark.usefixtures("installed")
def test_it_is_chosen_and_explained_like_ours() -> None:
    assert rung().name == NAME and type(rung().coder) is kind_named("signed_topk")
    skip = rung("coder=signed_topk_skip_transcoder", "target=out")
    assert skip.name == NAME.replace("topk", "topk_skip_transcoder")
    assert skip.coder.form is Form.skip_transcoder
    assert "largest |z| fire" in help_text("train", ["coder=signed_topk"])
    with pytest.raises(
        UserError, match="coder.bandwidth, which coder=signed_topk has not, but jum"
    ):
        rung("coder.bandwidth=1")


@pytest.mark.usefixtures("installed")
def test_it_is_planned_and_exported_or_refused_with_the_reason() -> None:
    config = rung("parallel.latent=2")
    plan = plan_rung(config, WIDTH, E, BATCH, 4, MachineConfig(devices=2))
    assert plan.mesh == (1, 2) and plan.sent_bytes > 0 and plan.flops > 0
    coder = Coder(config.coder, WIDTH, WIDTH)
    described = {"kind": coder.config.kind, "num_latents": 32, "k": 4}
    assert config_of(described).k == 4
    about = {"site": "in", "target": "in"}
    description = {"config": described, "d_in": WIDTH, "d_out": WIDTH, "about": about}
    require_holds(format_named("sae_dist"), NAME, description)
    for other in (one for one in all_formats() if one.name != "sae_dist"):
        with pytest.raises(UserError, match="negative activations, as signed TopK gives; export"):
            require_holds(other, NAME, description)


def test_without_its_package_it_is_refused() -> None:
    with pytest.raises(UserError, match="no kind of coder called 'signed_topk'; expected"):
        kind_named("signed_topk")
