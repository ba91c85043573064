from pathlib import Path
from typing import Any

import pytest

from sae_dist.apps import cli
from sae_dist.apps.rungs import lay_out
from sae_dist.apps.runs import finished_run, run_folder
from sae_dist.coders import Form, TopK, kind_named
from sae_dist.common.errors import UserError
from sae_dist.config import SweepConfig, TrainConfig
from sae_dist.train import RungConfig
from sae_dist.train.schedules import learning_rate

GIVEN = ["store=s", "run=r"]


def rungs(*overrides: str, sites: tuple[str, ...] = ("resid_post.3",)) -> list[RungConfig]:
    """As `train` lays them out."""
    widths = {site: 768 if site.startswith("mlp_out") else 512 for site in sites}
    return lay_out(cli.compose("train", [*GIVEN, *overrides]), widths)


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


@pytest.mark.parametrize("kind", ["batchtopk", "topk", "jumprelu"])
def test_a_matryoshka_coder_has_its_kinds_recipe_and_five_levels(kind: str) -> None:
    nested, plain = rungs(f"sweep.grids=[{{coder:[matryoshka_{kind},{kind}]}}]")
    assert nested.optim == plain.optim and nested.coder.num_levels == 5
    assert type(nested.coder) is type(plain.coder) is kind_named(kind)
    label = plain.coder.label
    assert nested.name == f"{kind}-16384-{label}-matryoshka-resid_post.3"


def test_rungs_picks_by_number_name_and_pattern() -> None:
    (third,) = rungs("+sweep=width_ladder", "rungs=[2]")
    assert third.coder.num_latents == 65536
    assert [r.coder.num_latents for r in rungs("+sweep=width_ladder", "rungs=[6,0]")] == [
        2**20,
        2**14,
    ]
    named = rungs("+sweep=width_ladder", "rungs=[*-65536-*,1]")
    assert [rung.coder.num_latents for rung in named] == [2**16, 2**15]
    assert rungs("+sweep=width_ladder", f"rungs={named[0].name}") == named[:1]
    for numbers in ("[]", "[7]", "[-1]", "[1,1]", "topk*"):
        with pytest.raises(UserError, match="^rungs=.*; expected .*(0 to 6|different ones)"):
            rungs("+sweep=width_ladder", f"rungs={numbers}")


SITES = tuple(f"{kind}.{layer}" for layer in range(12) for kind in ("mlp_in", "mlp_out"))


def test_a_pattern_is_a_rung_for_each_of_its_sites_and_targets_are_paired_by_layer() -> None:
    ladder = rungs(
        "sweep.grids=[{coder:topk,site:mlp_out.*},"
        "{coder:topk_transcoder,site:mlp_in.4-10/3,target:mlp_out.*}]",
        sites=SITES,
    )
    assert [rung.site for rung in ladder[:12]] == [f"mlp_out.{layer}" for layer in range(12)]
    assert [(rung.site, rung.target) for rung in ladder[12:]] == [
        (f"mlp_in.{layer}", f"mlp_out.{layer}") for layer in (4, 7, 10)
    ]
    assert len({rung.name for rung in ladder}) == 15
    (one,) = rungs("coder=topk", "site=mlp_in.*/4", "rungs=[2]", sites=SITES)
    assert one.site == "mlp_in.8"


def test_an_expansion_is_of_the_site_s_width() -> None:
    ladder = rungs(
        "coder=topk", "sweep.grids=[{expansion:[8,32],site:[mlp_in.1,mlp_out.1]}]", sites=SITES
    )
    widths = [rung.coder.num_latents for rung in ladder]
    assert widths == [8 * 512, 8 * 768, 32 * 512, 32 * 768]


@pytest.mark.parametrize(
    ("kind", "k", "rate"), [("topk", 32, 2e-4 / 1.5**0.5), ("batchtopk", 32, 3e-4)]
)
def test_an_expansion_brings_k_and_rate_as_published(kind: str, k: int, rate: float) -> None:
    """And what is typed wins."""
    line = ("expansion=32", "optim.warmup_steps=0", f"coder={kind}", "site=mlp_out.1")
    (rung,), (typed,) = (
        rungs(*line, *more, sites=SITES) for more in ((), ("coder.k=8", "optim.lr=1"))
    )
    assert (rung.coder.num_latents, rung.coder.k) == (32 * 768, k)
    assert learning_rate(rung.optim, 32 * 768, 1, 10) == pytest.approx(rate)
    assert (typed.coder.k, typed.optim.lr) == (8, 1)


def test_names_that_would_be_one_are_told_apart_by_what_differs() -> None:
    names = [
        rung.name for rung in rungs("coder=topk", "sweep.grids=[{optim.lr:0.1},{optim.lr:0.2}]")
    ]
    assert names == [f"topk-16384-k32-resid_post.3-lr{lr}" for lr in (0.1, 0.2)]


def test_a_ladder_made_in_python_is_laid_out_alike() -> None:
    ladder = [RungConfig(coder=TopK(k=k), expansion=4, site="mlp_in.*") for k in (8, 16)]
    made = lay_out(TrainConfig(store="s", run="r", ladder=ladder), dict.fromkeys(SITES, 64))
    assert len(made) == 24 and made[0].name == "topk-256-k8-mlp_in.0"
    with pytest.raises(UserError, match="found sweep.grids without their rungs"):
        lay_out(TrainConfig(sweep=SweepConfig(grids=[{"coder.k": [1, 2]}])), {"a": 8})


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
            ["coder=topk", "sweep.grids=[{init_from:[x,y]}]"],
            ("a",),
            "two rungs of the sweep called topk-16384-k32-a, which differ in init_from",
        ),
        (["site=b.*"], ("a",), "found b.., of which there is no site; expected a site of that"),
        (["site=b.1-3"], ("b.1", "b.3"), "there is no b.2; expected layers 1 to 3; correct it"),
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
