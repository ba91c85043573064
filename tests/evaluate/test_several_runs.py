from typing import Any

import pytest

from sae_dist.evaluate.several_runs import EvaluatedRun, compare_runs
from tests.evaluate.made_up import rung


def run(seed: int, of: dict[str, Any], name: str | None = None, **others: Any) -> EvaluatedRun:
    settings = {"seed": seed, "run": f"seed{seed}", "store": "s", "optim": {"lr": 0.001}, **others}
    evaluation = {"lm": None, "rungs": of, "pairs": []}
    return EvaluatedRun(name=name or f"seed{seed}", settings=settings, evaluation=evaluation)


def test_rungs_that_differ_in_the_seed_have_a_mean_and_a_spread() -> None:
    fvus = [0.1, 0.2, 0.6]
    runs = [run(s, {"a": rung(256, 8, fvu=f, kl={"x": 2 * f})}) for s, f in enumerate(fvus)]
    found = compare_runs(runs)
    assert found["runs"] == found["rungs"]["a"]["runs"] == ["seed0", "seed1", "seed2"]
    fvu = found["rungs"]["a"]["fvu"]
    assert fvu["values"] == fvus
    assert fvu["mean"] == pytest.approx(0.3)
    assert fvu["std"] == pytest.approx(0.07**0.5)  # (0.2² + 0.1² + 0.3²) / 2
    assert found["rungs"]["a"]["kl"]["x"]["mean"] == pytest.approx(0.6)
    assert (found["rungs"]["a"]["num_latents"], found["rungs"]["a"]["k"]) == (256, 8)


def test_one_run_has_no_spread() -> None:
    figures = compare_runs([run(0, {"a": rung(256, 8)})])["rungs"]["a"]["fvu"]
    assert figures == {"mean": 0.5, "std": None, "values": [0.5]}


def test_what_is_no_number_in_every_run_has_no_mean() -> None:
    first = rung(256, 8, delta_loss=0.1, r_l0=None, counts=[1, 2], kl={"a": None})
    second = rung(256, 8, r_l0=0.5, counts=[1, 2], kl={"a": 1.0})
    found = compare_runs([run(0, {"a": first}), run(1, {"a": second})])["rungs"]["a"]
    assert not {"delta_loss", "r_l0", "counts", "kl"} & found.keys()
    assert {"fvu", "l0", "dead_share"} <= found.keys()


def test_rungs_trained_otherwise_stand_apart() -> None:
    runs = [
        run(0, {"a": rung(256, 8)}),
        run(1, {"a": rung(256, 8)}, rungs=[0], log={"wandb": "disabled"}),
        run(2, {"a": rung(256, 8)}, optim={"lr": 0.1}),
    ]
    found = compare_runs(runs)["rungs"]
    assert {name: rung["runs"] for name, rung in found.items()} == {
        "seed0/a": ["seed0", "seed1"],
        "seed2/a": ["seed2"],
    }


def test_a_ladder_trained_in_parts_is_one_ladder() -> None:
    parts = [run(0, {str(n): rung(n, 8, fvu=n**-0.5)}, name=f"part{n}") for n in (256, 512, 1024)]
    found = compare_runs(parts)
    (law,) = found["of_run"]["scaling"]["rows"]
    assert law["coefficients"]["beta_n"] == pytest.approx(-0.5)
    assert [point["rung"] for point in law["points"]] == [
        *("part256/256", "part512/512", "part1024/1024"),
    ]


def test_forms_are_compared_with_their_spread() -> None:
    def both(fvu: float) -> dict[str, Any]:
        skip = {"form": "skip_transcoder", "site": "mlp_in.3"}
        return {"sae": rung(256, 8, fvu=fvu), "sst": rung(256, 8, fvu=fvu / 2, **skip)}

    rows = compare_runs([run(0, both(0.2)), run(1, both(0.4))])["of_run"]["forms"]["rows"]
    assert [row["fvu"]["mean"] for row in rows] == pytest.approx([0.3, 0.15])
    assert [row["fvu"]["values"] for row in rows] == [[0.2, 0.4], [0.1, 0.2]]


def test_pairs_are_averaged_too() -> None:
    runs = [run(seed, {"a": rung(256, 8)}) for seed in (0, 1)]
    for novel, one in zip((10, 20), runs, strict=True):
        pair = {"smaller": "a", "larger": "b", "latents": {"novel": novel}, "roc": {"auc": None}}
        one.evaluation["pairs"].append(pair)
    (pair,) = compare_runs(runs)["pairs"]
    assert (pair["smaller"], pair["larger"], pair["runs"]) == ("a", "b", ["seed0", "seed1"])
    assert pair["latents"]["novel"]["mean"] == 15 and "roc" not in pair
