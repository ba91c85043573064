"""Every formula on cases whose results are worked out on paper."""

from math import sqrt

import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate import Fidelity
from sae_dist.evaluate.measures.coder import Description
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.evaluate.measures.position import ReconstructionByPosition
from sae_dist.evaluate.measures.similarity import Similarity
from tests.coders.kinds import config_of_kind
from tests.evaluate.made_up import compared, pair_of, subject, subject_of
from tests.evaluate.test_measures import measured

ACTS_BF = torch.tensor([[5.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
Y_BE = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])  # mean (2, 1), ‖y - μ‖² 2, 2, 4
Ŷ_BE = torch.tensor([[1.0, 1.0], [3.0, 0.0], [0.0, 3.0]])  # ‖y - ŷ‖² 1, 0, 4


def test_fidelity() -> None:
    found = measured(Fidelity(subject()), [3], ACTS_BF, Y_BE, Ŷ_BE)
    assert (found["tokens"], found["l0"]) == (3, 1.0)
    assert found["fvu"] == pytest.approx(5 / 8)
    assert found["variance_explained"] == pytest.approx(3 / 8)
    # the mean error is (2/3, -1/3): 5 - 3 · 5/9 is left of the squares
    variants = {"error_variance": 10 / 3 / 8, "batch_mean": 5 / 8, "token_mean": 1.5 / 3}
    assert found["fvu_variants"] == pytest.approx(variants)


def test_a_batch_of_one_token_has_no_variance_of_its_own() -> None:
    found = measured(Fidelity(subject()), [2, 1], ACTS_BF, Y_BE, Ŷ_BE)
    assert found["fvu"] == pytest.approx(5 / 8)
    assert found["fvu_variants"]["batch_mean"] == pytest.approx(5 / 2)
    assert found["fvu_variants"]["token_mean"] is None


def test_similarity() -> None:
    found = measured(Similarity(subject()), [3], ACTS_BF, Y_BE, Ŷ_BE)
    assert found["cosine_similarity"] == pytest.approx((1 / sqrt(2) + 1 + 3 / sqrt(13)) / 3)
    assert found["l2_norm_ratio"] == pytest.approx((sqrt(2) + 1 + 3 / sqrt(13)) / 3)
    assert found["relative_reconstruction_bias"] == pytest.approx(20 / 19)


def test_zeros_have_no_bias_and_no_ratio() -> None:
    zeros = torch.zeros_like(Y_BE)
    found = measured(Similarity(subject()), [3], ACTS_BF, Y_BE, zeros)
    assert found == {
        "cosine_similarity": 0.0,
        "l2_norm_ratio": 0.0,
        "relative_reconstruction_bias": None,
    }
    assert measured(Similarity(subject()), [3], ACTS_BF, zeros, Y_BE)["l2_norm_ratio"] is None


def test_reconstruction_by_position() -> None:
    measure = ReconstructionByPosition(subject())
    found = measured(measure, [3], ACTS_BF, Y_BE, Ŷ_BE)["by_position"]
    assert (found["tokens"], found["mse"]) == ([1, 1, 1, 0], [1.0, 0.0, 4.0, None])
    assert found["fvu"][:3] == pytest.approx([3 / 8, 0, 12 / 8]) and found["fvu"][3] is None


def loss_of(clean_S: list[float], coder_S: list[float], zero_S: list[float]) -> LMLoss:
    """Sums of losses over one token at the first position and three at the second."""
    loss = LMLoss(subject(num_positions=3))
    loss._tokens_S += torch.tensor([1.0, 3.0])
    loss._clean_S += torch.tensor(clean_S)
    loss._spliced_S += torch.tensor(coder_S)
    loss._zero_S += torch.tensor(zero_S)
    return loss


def test_losses_in_the_language_model() -> None:
    loss = loss_of([2, 6], [3, 7], [4, 12])  # means 2, 2.5 and 4
    loss._kl += 2
    loss._zero_kl += 8
    assert loss.result() == {
        "clean_loss": 2.0,
        "delta_loss": 0.5,
        "ce_increase_percent": 25.0,
        "zero_ablation_loss": 4.0,
        "loss_recovered": 0.75,
        "kl": 0.5,
        "kl_score": 0.75,
        "delta_loss_by_position": [1.0, pytest.approx(1 / 3)],
    }


def test_nothing_is_recovered_where_zeros_cost_nothing() -> None:
    figures = loss_of([2, 6], [3, 7], [2, 6]).result()
    assert figures["loss_recovered"] is None and figures["kl_score"] is None


def coder(kind: str, W_FD: Tensor) -> Coder:
    """f = the positive ones of W x, ŷ = Wᵀ f."""
    config = config_of_kind(kind, num_latents=len(W_FD), k=len(W_FD))
    made = Coder(config, 2, 2, pre_bias=False).eval().requires_grad_(False)
    for tensor in made.state_dict().values():
        tensor.zero_()
    made.W_enc.copy_(W_FD)
    made.W_dec.copy_(W_FD)
    return made


def test_thresholds() -> None:
    made = coder("jumprelu", torch.ones(4, 2))
    made.threshold.copy_(torch.tensor([4.0, 0.0, 1.0, 2.0]))
    found = Description(subject_of(made)).result()["thresholds"]
    assert (found["mean"], found["quantiles"]["0.1"], found["quantiles"]["0.9"]) == (1.75, 0.0, 4.0)
    held = [found["edges"][i] for i, count in enumerate(found["counts"]) if count]
    assert held == pytest.approx([0.0, 1.0, 2.0, 3.9]) and sum(found["counts"]) == 4
    made = coder("batchtopk", torch.ones(4, 2))
    made.threshold.fill_(0.25)
    assert Description(subject_of(made)).result()["threshold"] == 0.25
    plain = Description(subject_of(coder("topk", torch.ones(4, 2)))).result()
    assert not {"threshold", "thresholds"} & plain.keys()


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "batchtopk"])
def test_a_coder_beside_one_that_knows_more(kind: str) -> None:
    """The smaller one keeps x₀, the larger one all of x; the tokens are (2, 0), (0, 3), (1, 1)."""
    x_NSD = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    tokens = [(x_NSD, x_NSD, torch.ones(1, 3, dtype=torch.bool))]
    both = coder(kind, torch.eye(2)[:1]), coder(kind, torch.eye(2))
    found = compared(pair_of(*both), tokens, tokens)
    # f₀² - 2 f₀⟨e, d₀⟩ = 4, 0, 1 as e has no x₀; f₁² - 2 f₁⟨e, d₁⟩ = 0, -9, -1
    latents = found["by_latent"]
    assert latents["max_cosine"].tolist() == [1.0, 0.0]
    assert latents["nearest"].tolist() == [0, 0]
    assert latents["mse_change"].tolist() == pytest.approx([5 / 3, -10 / 3])
    counts = {"novel": 1, "reconstruction": 1, "never_fired": 0}
    below = {"below_tau": 1, "novel_below_tau": 1, "fired_below_tau": 1}
    assert found["latents"] == {"tau": 0.7, **counts, **below}
    assert sum(found["max_cosine"]["counts"]) == 2 and found["max_cosine"]["counts"][-1] == 1
    change = found["mse_change"]
    assert sum(change["fired"]) == 2 and sum(change["novel"]) == 1 and change["novel"][-1] == 0
    means = [value for value in change["mean"] if value is not None]
    assert means == pytest.approx([-10 / 3, 5 / 3])
    assert found["roc"]["auc"] == 1.0
    # the second latent is active on the last two tokens, where the smaller coder's error is 9 and 1
    assert found["mse"]["smaller"] == pytest.approx({"all": 10 / 3, "active": 5.0, "inactive": 0.0})
    assert found["mse"]["larger"] == {"all": 0.0, "active": 0.0, "inactive": 0.0}
    assert found["selection"] == ("own_top_k" if kind == "topk" else "threshold")
    stitching = found["stitching"]
    assert (stitching["num_inserted"], stitching["num_steps"]) == (1, 3)
    assert stitching["mse"] == pytest.approx([10 / 3, 0, 0, 0])
    assert stitching["l0"] == pytest.approx([2 / 3, 4 / 3, 4 / 3, 4 / 3])
