from pathlib import Path
from typing import Any

import pytest

from sae_dist.apps import cli
from sae_dist.apps.rungs import chosen_rungs
from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.coders import Form
from sae_dist.common.errors import UserError
from sae_dist.train import RungConfig

GIVEN = ["store=s", "run=r"]


def rungs(*overrides: str, sites: tuple[str, ...] = ("resid_post.3",)) -> list[RungConfig]:
    """As `train_command` lays them out."""
    arguments = [*GIVEN, *overrides]
    config = cli.to_dataclass(cli.compose_config("train", arguments))
    return chosen_rungs(config, arguments, list(sites))


def test_one_coder_is_a_ladder_of_one_rung() -> None:
    (only,) = rungs("coder=topk", "coder.k=64")
    assert only.name == "topk-16384-k64-resid_post.3"
    assert (only.site, only.target) == ("resid_post.3", "resid_post.3")
    assert (only.coder.kind, only.coder.form, only.coder.k) == ("topk", Form.autoencoder, 64)
    assert only.optim.lr == 2e-4


def test_the_width_ladder_is_gemma_scopes() -> None:
    ladder = rungs("+sweep=width_ladder", "coder.sparsity_coefficient=0.001")
    assert [rung.coder.num_latents for rung in ladder] == [2**n for n in range(14, 21)]
    assert {rung.coder.sparsity_coefficient for rung in ladder} == {0.001}
    assert ladder[0].name == "jumprelu-16384-lambda0.001-resid_post.3"
    assert len({rung.name for rung in ladder}) == 7


def test_a_grid_is_every_combination_and_names_tell_them_apart() -> None:
    ladder = rungs(
        "sweep.grids=[{coder:topk,coder.k:[4,8],optim.lr:[0.1,0.2]},{coder:batchtopk,coder.k:4}]"
    )
    assert [(r.coder.kind, r.coder.k, r.optim.lr) for r in ladder] == [
        *[("topk", k, lr) for k in (4, 8) for lr in (0.1, 0.2)],
        ("batchtopk", 4, 3e-4),
    ]
    names = [rung.name for rung in ladder]
    assert len(set(names)) == 5 and names[0] == "topk-16384-k4-resid_post.3-lr0.1"


def test_each_rung_has_the_recipe_of_its_own_kind() -> None:
    ladder = rungs("sweep.grids=[{coder:[jumprelu,topk]}]", "coder.num_latents=512")
    assert [rung.optim.beta1 for rung in ladder] == [0.0, 0.9]
    assert [rung.coder.num_latents for rung in ladder] == [512, 512]


def test_rungs_picks_by_number() -> None:
    (third,) = rungs("+sweep=width_ladder", "rungs=[2]")
    assert third.coder.num_latents == 65536
    assert [r.coder.num_latents for r in rungs("+sweep=width_ladder", "rungs=[6,0]")] == [
        2**20,
        2**14,
    ]
    for numbers in ("[]", "[7]", "[-1]", "[1,1]"):
        with pytest.raises(UserError, match="^rungs=.*(the sweep has rungs 0 to 6|; expected )"):
            rungs("+sweep=width_ladder", f"rungs={numbers}")


@pytest.mark.parametrize(
    ("overrides", "sites", "said"),
    [
        ([], ("a", "b"), "the store has sites a, b: choose with site=…"),
        (["coder=topk_transcoder"], ("a",), "a transcoder needs target=… beside site=a"),
        (["target=b"], ("a",), "an autoencoder reconstructs its own input: drop target=b"),
        (["sweep.grids=[{seed:[0,1]}]"], ("a",), "found seed in sweep.grids.*a run for each seed"),
        (["sweep.grids=[{stream.lanes:[2,4]}]"], ("a",), "found stream.lanes in sweep.grids"),
        (["sweep.grids=[{name:[b,c]}]"], ("a",), r"found key sweep.grids\[0\].name; expected"),
        (
            ["sweep.grids=[{coder:topk,coder.aux_coefficient:0,coder.aux_k:[8,16]}]"],
            ("a",),
            r"aux_k8 and .*aux_k16 of.*equal in all.*\(coder.aux_k changes nothing of a topk's",
        ),
        (
            ["sweep.grids=[{coder:topk,parallel.latent:[1,2]}]"],
            ("a",),
            r"latent1 and .*-latent2.*\(parallel.latent changes nothing",
        ),
        (["sweep.grids=[{coder:jumprelu,coder.k:8}]"], ("a",), "which coder=jumprelu has not, but"),
        (["sweep.grids=[{coder:topk,coder.k:[8,8]}]"], ("a",), "equal in all that is trained;"),
        (
            ["sweep.grids=[{coder:topk,optim.lr:0.1},{coder:topk,optim.lr:0.2}]"],
            ("a",),
            "two rungs of the sweep called topk-16384-k32-a, which differ in optim.lr",
        ),
        (["sweep.grids=[{coder.widths:3}]"], ("a",), r"found key sweep.grids\[0\].coder.widths"),
    ],
)
def test_a_rung_that_cannot_be_is_refused(
    overrides: list[str], sites: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        rungs(*overrides, sites=sites)


@pytest.mark.parametrize("name", ["", "..", "../x", "/x", "a/b", ".x", "a\0b", "a b", "a\n", "~"])
def test_a_run_stays_in_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="a run's name is letters"):
        run_folder("runs", name)


def test_a_runs_configuration_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "a.b_c+d-1"
    folder.mkdir()
    (folder / "config.yaml").write_text("store: s\nseed: 3\n")
    expected: dict[str, Any] = {"store": "s", "seed": 3}
    assert finished_run(str(tmp_path), folder.name) == (folder, expected)
