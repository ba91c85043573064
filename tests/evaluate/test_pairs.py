import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder, kind_names, slice_of
from sae_dist.common.errors import UserError
from sae_dist.common.groups import neighbours
from sae_dist.evaluate import cosine
from sae_dist.evaluate.cosine import compare_decoders
from sae_dist.evaluate.measures.novelty import Novelty, roc
from sae_dist.evaluate.measures.stitching import Stitching, plan
from sae_dist.evaluate.output import run_coder
from sae_dist.parallel import Axis, Mesh, World, make_mesh, set_mesh
from tests.coders.kinds import config_of_kind
from tests.coders.test_memory import LargestTensor
from tests.evaluate.made_up import compared, pair_of
from tests.evaluate.test_evaluator import assert_same
from tests.processes import alone, run_on

D = 8


def coder(num_latents: int, seed: int, kind: str) -> Coder:
    """Random weights and unit decoder rows."""
    config = config_of_kind(kind, num_latents=num_latents, k=3)
    made = Coder(config, D, D, pre_bias=False).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in made.state_dict().items():
        tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
        if "threshold" in name:
            tensor.abs_()
    made.W_dec.div_(made.W_dec.norm(dim=1, keepdim=True))
    return made


def pair(kind: str = "jumprelu") -> tuple[Coder, Coder]:
    """Six latents, and ten: four almost the smaller one's, two of them near one and the same."""
    small, large = coder(6, 0, kind), coder(10, 1, kind)
    for own, other in ((0, 0), (1, 0), (2, 1), (3, 4)):
        row_D = small.W_dec[other] + 0.05 * large.W_dec[own]
        large.W_dec[own] = row_D / row_D.norm()
    return small, large


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    x_NSD = torch.randn(6, 5, D, generator=torch.Generator().manual_seed(2))
    trainable_NS = torch.ones(6, 5, dtype=torch.bool)
    trainable_NS[:, 0] = False
    return x_NSD, x_NSD, trainable_NS


def mse(coder: Coder, out_F: Tensor, more: Coder, in_G: Tensor) -> float:
    """Of a coder without the latents `out`, with those `in` of another; its b_dec stays."""
    x_NSD, _, trainable_NS = tokens()
    x_BD = x_NSD[trainable_NS]
    ŷ_BD = (coder.encode(x_BD) * ~out_F) @ coder.W_dec + coder.b_dec
    ŷ_BD = ŷ_BD + (more.encode(x_BD) * in_G) @ more.W_dec
    return float((x_BD - ŷ_BD).square().sum(1).mean())


def test_nearest_latents_are_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "_BLOCK_VALUES", 20)
    small, large = pair()
    cosine_GF = torch.cosine_similarity(large.W_dec[:, None], small.W_dec[None], dim=2)
    found = compare_decoders(large.W_dec * 3, small.W_dec * 2, 0.7, Axis())
    torch.testing.assert_close(found.cosine_G, cosine_GF.max(1).values)
    assert torch.equal(found.latent_G, cosine_GF.argmax(1))
    assert torch.equal(found.edges_2N, (cosine_GF >= 0.7).nonzero().T)


def test_what_a_latent_adds_is_what_inserting_it_changes() -> None:
    small, large = pair()
    novelty = Novelty(pair_of(small, large))
    x, y, mask = tokens()
    for rows in (slice(0, 2), slice(2, 6)):
        both = [run_coder(c, x[rows], y[rows], mask[rows]) for c in (small, large)]
        novelty.update(*both)
    nothing, one = torch.zeros(6).bool(), torch.eye(10).bool()
    before = mse(small, nothing, large, torch.zeros(10).bool())
    fires_G = large.encode(x[mask]).any(0)
    found = novelty.result()
    for g, change in enumerate(found["by_latent"]["mse_change"].tolist()):
        if fires_G[g]:
            assert change == pytest.approx(mse(small, nothing, large, one[g]) - before, abs=1e-5)
        else:
            assert change != change
    table = found["mse"]
    assert table["smaller"]["all"] == pytest.approx(before, rel=1e-5)
    acts_BG, errors_B = large.encode(x[mask]), (x[mask] - small(x[mask])).square().sum(1)
    chosen = (novelty._near.cosine_G < 0.7) & fires_G & (acts_BG == 0).any(0)
    assert table["latents"] == int(chosen.sum()) > 0
    active = [float(errors_B[acts_BG[:, g] > 0].mean()) for g in chosen.nonzero().flatten()]
    assert table["smaller"]["active"] == pytest.approx(sum(active) / len(active), rel=1e-5)


def test_similar_activations_are_correlated_as_by_hand() -> None:
    small, large = pair()
    large.W_dec[:6], large.W_enc[:6] = small.W_dec, small.W_enc
    large.b_enc[:6], large.threshold[:6] = small.b_enc, small.threshold
    large.W_enc[1] *= 1.5
    x, y, mask = tokens()
    novelty = Novelty(pair_of(small, large))
    novelty.update(run_coder(small, x, y, mask), run_coder(large, x, y, mask))
    f_BG, g_BF = large.encode(x[mask]).double(), small.encode(x[mask]).double()
    near = novelty.pair.similarity
    both = [
        (
            float(near.cosine_G[g]),
            float(torch.corrcoef(torch.stack([f_BG[:, g], g_BF[:, f]]))[0, 1]),
        )
        for g, f in enumerate(near.latent_G.tolist())
        if near.cosine_G[g] > 0.5 and f_BG[:, g].any() and g_BF[:, f].any()
    ]
    found = novelty.result()["activation_similarity"]
    assert found["latents"] == len(both) > 3
    assert found["r_squared"] == pytest.approx(
        float(torch.corrcoef(torch.tensor(both).T)[0, 1] ** 2), rel=1e-3
    )


def test_a_signed_latent_turned_round_is_the_same() -> None:
    small = coder(6, 0, "abstopk")
    turned = coder(6, 0, "abstopk")
    for name in ("W_enc", "b_enc", "W_dec"):
        turned.state_dict()[name].neg_()
    found = compared(pair_of(small, turned), [tokens()], [tokens()])
    assert found["latents"]["below_tau"] == found["stitching"]["num_inserted"] == 0
    torch.testing.assert_close(found["by_latent"]["max_cosine"], torch.ones(6))
    assert found["by_latent"]["nearest"].tolist() == list(range(6))
    mse = found["stitching"]["mse"]
    assert mse == pytest.approx([mse[0]] * len(mse), rel=1e-5)


def test_groups_are_swapped_whole_after_the_others_came_in() -> None:
    cosine_G = torch.tensor([0.9, 0.2, 0.95, 0.1, 0.8])
    pairs_2N = torch.tensor([[0, 0, 2, 4], [0, 3, 2, 0]])  # 0 and 4 share small 0; 0 also has 3
    found = plan(cosine_G, pairs_2N, 5, 0.7, Axis())
    assert (found.num_inserted, found.num_steps) == (2, 5)
    assert found.in_G.tolist() == [3, 1, 2, 0, 3]
    assert found.out_F.tolist() == [3, 4, 2, 3, 4]  # 1 and 4 have no counterpart


def test_latents_split_into_those_below_them() -> None:
    """0 has two below it, 1 and 4 have one each; the other six of ten are novel."""
    small, large = pair()
    found = compared(pair_of(small, large, tau=0.9), [tokens()], [tokens()])["splitting"]
    expected = {"none": 3, "one": 2, "several": 1, "most": 2, "placed": 4, "counts": [3, 2, 1]}
    assert found == expected
    same = compared(pair_of(small, small), [tokens()], [tokens()])["splitting"]
    assert (same["one"], same["placed"]) == (6, 6)


@pytest.mark.parametrize("kind", kind_names())
def test_every_stitched_coder_is_what_its_latents_make(kind: str) -> None:
    small, large = pair(kind)
    both = pair_of(small, large)
    figures, near = compared(both, [], [tokens()])["stitching"], both.similarity
    order = plan(near.cosine_G, near.edges_2N, 6, 0.7, Axis())
    assert figures["steps"] == list(range(order.num_steps + 1))
    x, _, mask = tokens()
    for step in range(order.num_steps):
        expected = mse(small, order.out_F < step, large, order.in_G < step)
        assert figures["mse"][step] == pytest.approx(expected, rel=1e-5)
        l0 = (large.encode(x[mask])[:, order.in_G < step] != 0).sum()
        l0 = l0 + (small.encode(x[mask])[:, order.out_F >= step] != 0).sum()
        assert figures["l0"][step] == pytest.approx(float(l0) / int(mask.sum()))
    whole = float((x[mask] - large(x[mask])).square().sum(1).mean())
    assert figures["mse"][-1] == pytest.approx(whole, rel=1e-5)  # with all of its latents: equal
    assert figures["l0"][-1] == pytest.approx(
        float((large.encode(x[mask]) != 0).sum(1).float().mean())
    )


def sliced(coder: Coder, mesh: Mesh) -> Coder:
    """The slice of a coder that a process of a mesh holds."""
    axis = mesh.latent
    latents = slice_of(coder.config.num_latents, axis.index, axis.size)
    held = Coder(coder.config, D, D, latents=latents, pre_bias=False).eval().requires_grad_(False)
    rows = slice(latents.start, latents.stop)
    held.load_state_dict(
        {
            name: tensor[rows] if name in held.latent_tensors else tensor
            for name, tensor in coder.state_dict().items()
        }
    )
    return set_mesh(held, mesh)


def compared_on(world: World, latent: int) -> dict[str, dict]:
    """Two coders of each kind compared on a mesh, whose parts get unequally many tokens."""
    mesh = make_mesh(world, latent, {})
    batches = list(zip(*(v.split([1, 3, 2]) for v in tokens()), strict=True))
    own = batches[mesh.data.index :: mesh.data.size]
    found = {}
    for kind in kind_names():
        both = pair_of(*(sliced(coder, mesh) for coder in pair(kind)), mesh)
        found[kind] = compared(both, own, own)
        del found[kind]["by_latent"]
    return found


def test_slices_are_compared_as_the_whole_is() -> None:
    expected = compared_on(alone(), 1)
    for figures in expected.values():
        assert figures["latents"]["novel"] > 0 and figures["latents"]["reconstruction"] > 0
        assert 0 < figures["stitching"]["num_inserted"] < figures["stitching"]["num_steps"] - 2
    for found in run_on(4, compared_on, 2):
        assert_same(found, expected)


def test_stitching_gives_what_going_from_latent_to_latent_gave() -> None:
    """`stitching.json` was written by a loop over all steps that moved one latent at a time."""
    known = json.loads((Path(__file__).parent / "stitching.json").read_text())
    found = compared_on(alone(), 1)
    for kind in known:
        figures = found[kind]
        assert figures["stitching"]["l0"] == known[kind]["l0"]
        assert figures["stitching"]["mse"] == pytest.approx(known[kind]["mse"], rel=1e-12)


def test_stitching_in_blocks_of_few_tokens_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compared_on(alone(), 1)
    monkeypatch.setattr("sae_dist.evaluate.measures.stitching._BLOCK_VALUES", {"cpu": 100})
    assert_same(compared_on(alone(), 1), expected)


def largest_tensor(world: World, latent: int) -> int:
    """Numbers in the largest tensor that comparing two decoders takes, tokens aside."""
    mesh = make_mesh(world, latent, {})
    coders = [sliced(coder(num, 0, "topk"), mesh) for num in (1024, 4096)]
    with patch.object(cosine, "_BLOCK_VALUES", 1024), LargestTensor() as largest:
        compared(pair_of(*coders, mesh, tau=0.99), [], [])
    return largest.num_elements


def test_nobody_holds_a_decoder_that_lies_in_slices() -> None:
    assert run_on(2, largest_tensor, 2) == [4096 * D // 2] * 2


def test_too_many_pairs_of_like_latents_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "_MOST_EDGES", 3)
    both = pair_of(*pair())
    assert both.similarity.edges_2N is None
    with pytest.raises(UserError, match="a cosine of at least pairs.tau=0.7; expected one that"):
        Stitching(both)


def test_the_roc_of_known_scores() -> None:
    perfect = roc(torch.tensor([0.9, 0.8, 0.2, 0.1]), torch.tensor([True, True, False, False]))
    assert perfect["auc"] == 1.0
    tied = roc(torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor([True, False, True, False]))
    assert (tied["auc"], len(tied["true_positive"])) == (0.5, 2)
    assert roc(torch.tensor([0.1, 0.2]), torch.tensor([True, True]))["auc"] is None
    mixed = roc(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False]))
    assert mixed["auc"] == 0.75


def test_rungs_are_compared_with_the_next_narrower_of_their_kind() -> None:
    def rung(kind: str, width: int, l0: float) -> dict:
        return {
            "kind": kind,
            "form": "autoencoder",
            "site": "a",
            "target": "a",
            "num_latents": width,
            "l0": l0,
        }

    rungs = {
        "t16": rung("topk", 16, 8),
        "t32": rung("topk", 32, 8),
        "t64": rung("topk", 64, 8),
        "t32k4": rung("topk", 32, 4),
        "j64": rung("jumprelu", 64, 8),
    }
    assert sorted(neighbours(rungs)) == [("t16", "t32"), ("t16", "t32k4"), ("t32", "t64")]
