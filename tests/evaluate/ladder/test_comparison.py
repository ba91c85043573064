from typing import Any

import pytest

from sae_dist.evaluate.ladder import comparison
from tests.evaluate.ladder.made_up import rung


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
    (group,) = comparison(three(256, 8, **measured))
    assert (group["num_latents"], group["k"], group["layer"]) == (256, 8, 3)
    assert [row["form"] for row in group["rows"]] == [
        *("autoencoder", "transcoder", "skip_transcoder"),
    ]
    assert group["rows"][1] == {
        "rung": "st256",
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
    (group,) = comparison(rungs)
    assert [row["rung"] for row in group["rows"]] == ["sae256", "st256", "sst256"]


def test_a_jumprelu_is_compared_by_the_l0_it_aimed_at() -> None:
    aimed = three(256, None, kind="jumprelu", target_l0=8.0) | {"topk": rung(256, 8)}
    (group,) = comparison(aimed)
    assert group["k"] == 8
    assert [row["rung"] for row in group["rows"]] == ["sae256", "st256", "sst256", "topk"]
    assert comparison(three(256, None, kind="jumprelu")) == []


def test_groups_stand_in_order_and_what_was_not_measured_is_none() -> None:
    groups = comparison(three(1024, 8) | three(256, 8) | {"alone": rung(64, 8)})
    assert [group["num_latents"] for group in groups] == [256, 1024]
    assert groups[0]["rows"][0]["delta_loss"] is None


@pytest.mark.parametrize(
    ("target", "layer"),
    [
        ("mlp_out.12", 12),
        ("gpt_neox.layers.3.mlp.output", 3),
        ("blocks.1.experts.2.output", None),
        ("head.output", None),
        ("h3.mlp.output", None),
    ],
)
def test_the_layer_is_the_one_number_of_the_name(target: str, layer: int | None) -> None:
    (group,) = comparison({n: r | {"target": target} for n, r in three(256, 8).items()})
    assert group["layer"] == layer
