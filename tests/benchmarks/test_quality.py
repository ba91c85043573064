"""Weights of any program in one form, and means over seeds at equal L0."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.activations import COMMANDS
from benchmarks.kept import KeptRuns, over_seeds
from benchmarks.measured import as_coder
from benchmarks.quality import Asked, jobs
from benchmarks.trained.task import Weights
from sae_dist.apps.cli import compose

F, D, K = 24, 6, 3


def weights(*, has_threshold: bool) -> Weights:
    generator = torch.Generator().manual_seed(0)
    shapes = [(F, D), (F,), (F, D), (D,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    threshold = torch.rand(F, generator=generator) if has_threshold else None
    return Weights(*tensors, threshold)


def rows(num: int = 40) -> torch.Tensor:
    return torch.randn(num, D, generator=torch.Generator().manual_seed(1))


def programs_own(w: Weights, x_BD: torch.Tensor, *, pre_bias: bool, by_norm: bool) -> torch.Tensor:
    """What a peer's coder computes, written as the peers write it."""
    norm_F = w.W_dec.norm(dim=1) if by_norm else torch.ones(F)
    z_BF = ((x_BD - w.b_dec if pre_bias else x_BD) @ w.W_enc.T + w.b_enc) * norm_F
    if w.threshold is not None:
        acts_BF = z_BF * (z_BF > w.threshold)
    else:
        kth_B1 = z_BF.topk(K, dim=1).values[:, -1:]
        acts_BF = z_BF * ((z_BF >= kth_B1) & (z_BF > 0))
    return (acts_BF / norm_F) @ w.W_dec + w.b_dec


@pytest.mark.parametrize("has_threshold", [False, True])
@pytest.mark.parametrize("pre_bias", [False, True])
@pytest.mark.parametrize("by_norm", [False, True])
def test_folded_weights_give_what_the_program_gives(
    has_threshold: bool, pre_bias: bool, by_norm: bool
) -> None:
    own, x_BD, factor = weights(has_threshold=has_threshold), rows(), 3.0
    expected_BD = programs_own(own, x_BD * factor, pre_bias=pre_bias, by_norm=by_norm) / factor
    folded = own.folded(is_pre_bias=pre_bias, is_by_norm=by_norm, factor=factor)
    torch.testing.assert_close(folded.reconstruct(x_BD, K), expected_BD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_threshold", [False, True])
def test_the_one_evaluation_computes_what_the_weights_say(has_threshold: bool) -> None:
    own, x_BD = weights(has_threshold=has_threshold), rows()
    tensors = {name: value for name, value in vars(own).items() if value is not None}
    with torch.no_grad():
        torch.testing.assert_close(
            as_coder(tensors, "topk", K)(x_BD), own.reconstruct(x_BD, K), rtol=1e-4, atol=1e-5
        )


def run(seed: int, l0: float, fvu: float) -> dict[str, Any]:
    return {"seed": seed, "l0": l0, "fvu": fvu, "dead_share": seed / 4}


def test_a_topk_counts_by_its_seeds_mean_and_a_jumprelu_at_the_target() -> None:
    expected = {"seeds": 2, "fvu": 0.15, "deviation": 0.0707, "l0": 8.0, "dead_share": 0.125}
    found = over_seeds([run(0, 8.0, 0.1), run(1, 8.0, 0.2)], None)
    assert found is not None and found["delta_loss"] is None
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-4)
    around = [run(0, 4.0, 0.4), run(0, 16.0, 0.1)]
    found = over_seeds(around, 8.0)
    assert found is not None and found["fvu"] == pytest.approx(0.2) and found["deviation"] is None
    found = over_seeds([*around, run(1, 9.0, 0.1)], 8.0)  # one seed never got there
    assert found is not None and found["seeds"] == 1
    assert over_seeds([run(1, 9.0, 0.1)], 8.0) is None
    assert over_seeds([], None) is None


def test_what_was_kept_is_found_by_what_it_was_told(tmp_path: Path) -> None:
    kept = KeptRuns(tmp_path / "runs" / "kept.jsonl")
    kept.add({"name": "topk", "seed": 0, "recipe": {"lr": 0.1}, "fvu": 0.5})
    kept.add({"name": "topk", "seed": 1, "recipe": {"lr": 0.1}, "fvu": 0.6})
    again = KeptRuns(kept.path)
    assert [run["fvu"] for run in again.told({"name": "topk", "recipe": {"lr": 0.1}})] == [0.5, 0.6]
    assert (
        again.told({"name": "topk", "recipe": {"lr": 0.2}}) == []
    )  # another rate: it is made anew


def test_ours_come_first_then_one_seed_of_each_peer_then_the_rest() -> None:
    kinds = ("topk", "gated", "topk_transcoder")
    found = jobs(Asked(kinds, ("bfloat16",), ("sparsify", "SAELens"), 2, 1, 1.0))
    names = [" ".join(map(str, job)) for job in found]
    assert names[:4] == [
        *("sae_dist topk bfloat16 0", "sae_dist topk bfloat16 1"),
        *("sparsify topk same 0", "SAELens topk same 0"),
    ]
    assert names[4:6] == [f"sae_dist topk_transcoder bfloat16 {seed}" for seed in range(2)]
    assert names.index("SAELens gated own 0") < names.index("sparsify topk same 1")
    assert "SAELens gated own 1" not in names  # steered with its own settings: one seed
    assert not any("sparsify gated" in name or "SAELens topk_trans" in name for name in names)


@pytest.mark.parametrize("store", COMMANDS, ids=str)
def test_what_makes_a_store_are_commands_with_their_keys(store: Path) -> None:
    composed = [compose(name, told) for name, *told in COMMANDS[store]]
    assert composed[-1].store == str(store)
