from typing import Any

from sae_dist.evaluate.measures.forms import Forms
from tests.evaluate.made_up import rung


def comparison(rungs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Forms.of(rungs)["rows"]
    return rows


def three(num_latents: int, k: int | None, **figures: Any) -> dict[str, dict[str, Any]]:
    """An autoencoder, a transcoder and a skip transcoder of one MLP."""
    mlp = {"site": "mlp_in.3", **figures}
    return {
        f"sst{num_latents}": rung(num_latents, k, form="skip_transcoder", **mlp),
        f"st{num_latents}": rung(num_latents, k, form="transcoder", **mlp),
        f"sae{num_latents}": rung(num_latents, k, **figures),
    }


def test_the_forms_of_one_mlp_stand_side_by_side() -> None:
    measured = {
        "l0": 8.5,
        "fvu": 0.25,
        "delta_loss": 0.03,
        "ce_increase_percent": 1.5,
        "loss_recovered": 0.9,
        "dead_share": 0.1,
    }
    rows = comparison(three(256, 8, **measured))
    assert [row["form"] for row in rows] == ["autoencoder", "transcoder", "skip_transcoder"]
    assert rows[1] == {
        "group": "256 latents, k = 8, layer 3",
        "rung": "st256",
        "num_latents": 256,
        "k": 8,
        "kind": "topk",
        "form": "transcoder",
        "site": "mlp_in.3",
        "target": "mlp_out.3",
        **measured,
    }


def test_only_equal_targets_widths_and_k_are_compared() -> None:
    rungs = three(256, 8)
    rungs["wide"] = rung(512, 8, form="transcoder", site="mlp_in.3")
    rungs["dense"] = rung(256, 16, form="transcoder", site="mlp_in.3")
    rungs["elsewhere"] = rung(256, 8, site="resid_post.3", target="resid_post.3")
    rungs["next"] = rung(256, 8, site="mlp_out.4", target="mlp_out.4")
    assert [row["rung"] for row in comparison(rungs)] == ["sae256", "st256", "sst256"]


def test_a_jumprelu_is_compared_by_the_l0_it_aimed_at() -> None:
    aimed = three(256, None, kind="jumprelu", target_l0=8.0) | {"topk": rung(256, 8)}
    assert {row["k"] for row in comparison(aimed)} == {8}
    assert [row["rung"] for row in comparison(aimed)] == ["sae256", "st256", "sst256", "topk"]
    assert comparison(three(256, None, kind="jumprelu")) == []


def test_groups_stand_in_order_and_what_was_not_measured_is_none() -> None:
    rows = comparison(three(1024, 8) | three(256, 8) | {"alone": rung(64, 8)})
    assert [row["num_latents"] for row in rows] == [256] * 3 + [1024] * 3
    assert rows[0]["delta_loss"] is None
