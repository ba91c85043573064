from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder
from sae_dist.evaluate import EvaluationConfig
from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.evaluate.measures.uniformity import Uniformity, importance_sums, r_l0
from sae_dist.kernels import SparsePattern
from sae_dist.lm import LM, LMConfig, divergence_NS, next_token_loss_NS
from tests.coders.kinds import config_of_kind
from tests.evaluate.made_up import subject_of
from tests.lm.tiny import WIDTH, tiny_ids_NS, tiny_model


def tiny_lm() -> LM:
    return LM(tiny_model("llama"), None, LMConfig(name="tiny"), "none")  # type: ignore[arg-type]


def copying_coder(width: int = WIDTH) -> Coder:
    """x = relu(x) - relu(-x): a JumpReLU coder of 2 D latents that changes nothing."""
    config = config_of_kind("jumprelu", num_latents=2 * width)
    coder = Coder(config, width, width, pre_bias=False).eval().requires_grad_(False)
    both_signs = torch.cat([torch.eye(width), -torch.eye(width)])
    zeros = {name: torch.zeros_like(value) for name, value in coder.state_dict().items()}
    coder.load_state_dict({**zeros, "W_enc": both_signs, "W_dec": both_signs})
    return coder


def zero_coder() -> Coder:
    coder = copying_coder()
    coder.W_dec.zero_()
    return coder


TRAINABLE_NS = torch.tensor([[0, 1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1, 1]])


def lm_loss(
    site: str, *coders: Coder, split: Sequence[int] = (3,)
) -> tuple[float, list[dict[str, float]]]:
    """The clean loss on three sequences, and each coder's figures at a site."""
    lm, ids_NS, trainable_NS = tiny_lm(), tiny_ids_NS(3), TRAINABLE_NS.bool()
    at = {"site": site, "target": site, "num_positions": ids_NS.shape[1]}
    losses = [LMLoss(subject_of(coder, **at)) for coder in coders]
    for batch in zip(ids_NS.split(list(split)), trainable_NS.split(list(split)), strict=True):
        seen = LMBatch(lm, *batch)
        for loss in losses:
            loss.update(seen)
    figures = [loss.result() for loss in losses]
    return figures[0]["clean_loss"], figures


@pytest.mark.parametrize("split", [(3,), (1, 1, 1), (2, 1)])
def test_the_clean_loss_is_the_mean_over_predicted_trainable_tokens(split: Sequence[int]) -> None:
    clean, _ = lm_loss("resid_post.1", copying_coder(), split=split)
    loss_NS = next_token_loss_NS(tiny_lm().model, tiny_ids_NS(3))
    assert clean == pytest.approx(float(loss_NS[TRAINABLE_NS[:, 1:].bool()].mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("site", "width"),
    [("resid_post.1", WIDTH), ("mlp_out.0", WIDTH), ("attn_z.1", 48), ("embed", WIDTH)],
)
def test_a_coder_that_copies_costs_nothing(site: str, width: int) -> None:
    clean, (figures,) = lm_loss(site, copying_coder(width))
    assert figures["delta_loss"] == pytest.approx(0, abs=1e-5)
    assert figures["ce_increase_percent"] == pytest.approx(0, abs=1e-3)
    assert abs(figures["zero_ablation_loss"] - clean) > 1e-3
    assert figures["loss_recovered"] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.0", "embed"])
def test_a_coder_that_gives_zeros_recovers_nothing(site: str) -> None:
    clean, (zero, copy) = lm_loss(site, zero_coder(), copying_coder())
    assert zero["loss_recovered"] == 0
    assert zero["delta_loss"] == pytest.approx(zero["zero_ablation_loss"] - clean)
    assert zero["zero_ablation_loss"] == copy["zero_ablation_loss"]


def test_special_positions_keep_their_own_activation() -> None:
    shift = copying_coder()
    shift.b_dec.fill_(0.7)
    _, (figures,) = lm_loss("resid_post.1", shift)
    lm = tiny_lm()

    def add(module: object, args: object, output: Tensor) -> Tensor:
        return output + 0.7 * TRAINABLE_NS[..., None]

    lm.model.model.layers[1].register_forward_hook(add)
    loss_NS = next_token_loss_NS(lm.model, tiny_ids_NS(3))
    expected = float(loss_NS[TRAINABLE_NS[:, 1:].bool()].mean())
    clean, _ = lm_loss("resid_post.1", shift)
    assert figures["delta_loss"] == pytest.approx(expected - clean, abs=1e-5)
    assert abs(figures["delta_loss"]) > 1e-3


def test_divergence_and_positions_are_those_of_the_logits() -> None:
    shift = copying_coder()
    shift.b_dec.fill_(0.7)
    _, (figures, zero) = lm_loss("resid_post.1", shift, zero_coder(), split=(2, 1))
    lm, trainable_NS = tiny_lm(), TRAINABLE_NS.bool()
    logits = [lm.model(input_ids=tiny_ids_NS(3)).logits.detach()]
    for change in (
        lambda y: y + 0.7 * TRAINABLE_NS[..., None],
        lambda y: y * ~trainable_NS[..., None],
    ):
        hook = lm.model.model.layers[1].register_forward_hook(lambda m, a, y, f=change: f(y))
        logits.append(lm.model(input_ids=tiny_ids_NS(3)).logits.detach())
        hook.remove()
    clean, shifted, zeroed = (v[:, :-1].double().log_softmax(2) for v in logits)
    predicted_NS = trainable_NS[:, 1:]
    kl, kl_zero = (
        float((clean.exp() * (clean - v)).sum(2)[predicted_NS].mean()) for v in (shifted, zeroed)
    )
    assert figures["kl"] == pytest.approx(kl, rel=1e-4)
    assert figures["kl_score"] == pytest.approx(1 - kl / kl_zero, rel=1e-4)
    assert zero["kl_score"] == 0
    next_NS1 = tiny_ids_NS(3)[:, 1:, None].long()
    delta_NS = (clean - shifted).gather(2, next_NS1)[..., 0]
    counts_S = predicted_NS.sum(0)
    expected_S = (delta_NS * predicted_NS).sum(0) / counts_S
    found = figures["delta_loss_by_position"]
    assert [v is None for v in found] == (counts_S == 0).tolist()
    for value, expected in zip(found, expected_S.tolist(), strict=True):
        assert value is None or value == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("importances", "expected"),
    [
        ([2.0, -2.0, 2.0, 2.0], 1.0),
        ([0.0, 5.0, 0.0, 0.0], 1.0),
        ([1e9, 1e-9, 1e-9, -1e-9], 1 / 4),
        ([3.0, -1.0, 0.0, 0.0], 4 / 3**0.75 / 2),  # e^S of (3/4, 1/4)
    ],
)
def test_uniformity_of_importances_known_by_hand(importances: list[float], expected: float) -> None:
    code = SparsePattern.from_rows(torch.zeros(4, dtype=torch.int64), torch.arange(4), 1, 4)
    r_B, count_B = r_l0(importance_sums(torch.tensor(importances), code))
    assert float(r_B) == pytest.approx(expected)
    assert int(count_B) == sum(v != 0 for v in importances)


def logits_from_leaf(lm: LM, ids_1S: Tensor, position: int) -> tuple[Tensor, Tensor]:
    """The logits at a position, and the output of layer 0 that they can be differentiated by."""
    leaf: list[Tensor] = []

    def take(module: object, args: object, output: Tensor) -> Tensor:
        leaf[:] = [output.detach().requires_grad_()]
        return leaf[0]

    hook = lm.model.model.layers[0].register_forward_hook(take)
    logits_V = lm.model(input_ids=ids_1S).logits[0, position]
    hook.remove()
    return logits_V, leaf[0]


def test_uniformity_takes_each_tokens_own_gradient() -> None:
    lm, coder, ids_NS = tiny_lm(), copying_coder(), tiny_ids_NS(3)
    config = EvaluationConfig(uniformity_positions=2)
    place = {"site": "resid_post.0", "target": "resid_post.0"}
    uniformity = Uniformity(subject_of(coder, config=config, **place))
    trainable_NS = TRAINABLE_NS.bool()
    for batch in zip(ids_NS.split([1, 2]), trainable_NS.split([1, 2]), strict=True):
        uniformity.update(LMBatch(lm, *batch))
    found = uniformity.result()["uniformity"]

    r = []
    for row, positions in enumerate([[1, 4], [1, 2], [2, 4]]):  # of the usable, evenly spaced
        for position in positions:
            logits_V, leaf = logits_from_leaf(lm, ids_NS[row : row + 1], position)
            (logits_V[ids_NS[row, position + 1]] - logits_V.mean()).backward()
            x_D, grad_D = leaf[0, position].detach(), leaf.grad[0, position]
            size = (coder.encode(x_D[None])[0] * (coder.W_dec @ grad_D)).abs().double()
            p = size[size > 0] / size.sum()
            r.append(float((-(p * p.log()).sum()).exp() / len(p)))
    assert (found["tokens"], found["left_out"]) == (6, 0)
    assert found["r_l0"] == pytest.approx(sum(r) / 6, rel=1e-5)


def test_tokens_that_are_ruled_out_add_nothing_to_a_divergence() -> None:
    clean_NSV = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    other_NSV, ruled_out = clean_NSV + 1, (..., slice(3, None))
    clean_NSV[ruled_out] = other_NSV[ruled_out] = -torch.inf
    assert divergence_NS(clean_NSV, clean_NSV).tolist() == [[0, 0]]
    other_NSV[0, :, 0] += 2
    expected = divergence_NS(clean_NSV[..., :3], other_NSV[..., :3])
    torch.testing.assert_close(divergence_NS(clean_NSV, other_NSV), expected)
    assert (expected > 0).all()
