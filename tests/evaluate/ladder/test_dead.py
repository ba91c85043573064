from sae_dist.evaluate.ladder import dead_by_width
from tests.evaluate.ladder.made_up import rung


def test_dead_shares_stand_by_width_in_groups_of_their_own() -> None:
    rungs = {
        "wide": rung(1024, 8, dead_share=0.5),
        "narrow": rung(256, 8, dead_share=0.125),
        "dense": rung(256, 16, dead_share=0.0),
        "other": rung(512, 8, dead_share=0.25, kind="batchtopk"),
    }
    other, topk = dead_by_width(rungs)
    assert topk == {
        "kind": "topk",
        "form": "autoencoder",
        "site": "mlp_out.3",
        "target": "mlp_out.3",
        "points": [
            {"rung": "narrow", "num_latents": 256, "l0": 8.0, "dead_share": 0.125},
            {"rung": "dense", "num_latents": 256, "l0": 16.0, "dead_share": 0.0},
            {"rung": "wide", "num_latents": 1024, "l0": 8.0, "dead_share": 0.5},
        ],
    }
    assert other["kind"] == "batchtopk" and [p["rung"] for p in other["points"]] == ["other"]


def test_no_rungs_have_no_dead_latents() -> None:
    assert dead_by_width({}) == []
