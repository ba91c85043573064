from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder, CoderConfig, Kind
from sae_dist.evaluate import Fidelity, FiringFrequency, LMLoss
from sae_dist.evaluate.lm_loss import Spliced
from sae_dist.lm import LM, LMConfig, next_token_loss_NS, resolve
from sae_dist.parallel import Mesh, make_mesh
from tests.lm.tiny import WIDTH, tiny_ids_NS, tiny_model
from tests.processes import alone

NUM_TOKENS, D_OUT, NUM_LATENTS = 200, 5, 12
SPLITS = ([200], [1, 199], [64, 64, 64, 8], [1] * 200, [0, 150, 0, 50])


def mesh() -> Mesh:
    return make_mesh(alone(), 1, {})


def made_up() -> tuple[Tensor, Tensor, Tensor]:
    """Activations, a target far from the origin, and a reconstruction of it."""
    generator = torch.Generator().manual_seed(0)
    acts_BF = torch.relu(torch.randn(NUM_TOKENS, NUM_LATENTS, generator=generator) - 1)
    y_BE = torch.randn(NUM_TOKENS, D_OUT, generator=generator) + 30
    return acts_BF, y_BE, y_BE + 0.3 * torch.randn(NUM_TOKENS, D_OUT, generator=generator)


def measure(split: Sequence[int], acts_BF: Tensor, y_BE: Tensor, ŷ_BE: Tensor) -> dict:
    fidelity = Fidelity(D_OUT, torch.device("cpu"))
    batches = (v.split(list(split)) for v in (acts_BF, y_BE, ŷ_BE))
    for acts, y, ŷ in zip(*batches, strict=True):
        fidelity.update(int((acts != 0).sum()), y, ŷ)
    return fidelity.result(mesh())


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_fidelity_is_pooled_over_all_batches(split: list[int]) -> None:
    acts_BF, y_BE, ŷ_BE = made_up()
    found = measure(split, acts_BF, y_BE, ŷ_BE)
    y, ŷ = y_BE.double().numpy(), ŷ_BE.double().numpy()
    assert found["tokens"] == NUM_TOKENS
    assert found["l0"] == np.count_nonzero(acts_BF) / NUM_TOKENS
    assert found["fvu"] == pytest.approx(((y - ŷ) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


def test_the_mean_of_the_data_has_an_fvu_of_one_and_the_data_of_zero() -> None:
    acts_BF, y_BE, _ = made_up()
    mean_BE = y_BE.double().mean(0).expand_as(y_BE)
    assert measure([150, 50], acts_BF, y_BE, mean_BE)["fvu"] == pytest.approx(1, abs=1e-9)
    assert measure([150, 50], acts_BF, y_BE, y_BE)["fvu"] == 0


def test_l0_counts_what_is_not_zero_whatever_its_sign() -> None:
    acts_BF = torch.tensor([[0.0, -1.0, 2.0], [0.0, 0.0, 0.0]])
    y_BE = torch.arange(10.0).view(2, 5)
    assert measure([1, 1], acts_BF, y_BE, y_BE)["l0"] == 1


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_firing_frequencies_are_counted_as_by_hand(split: list[int]) -> None:
    acts_BF = torch.zeros(NUM_TOKENS, 5)
    acts_BF[:, 0] = -1.0  # log₁₀ 1 = 0, in the last bin
    acts_BF[:24, 1] = 3.0  # log₁₀ 0.12 = -0.92
    acts_BF[-24:, 2] = 3.0
    acts_BF[7, 3] = 3.0  # log₁₀ 0.005 = -2.3
    frequency = FiringFrequency(5, torch.device("cpu"))
    for batch in acts_BF.split(split):
        frequency.update((batch != 0).sum(0), len(batch))
    found = frequency.result(mesh())
    histogram = found["firing_frequency"]
    edges, counts = histogram["edges_log10"], histogram["counts"]
    assert (edges[0], edges[-1], len(edges)) == (-7, 0, 29)
    assert (found["dead_share"], histogram["never"]) == (0.2, 1)
    held = {edges[i]: count for i, count in enumerate(counts) if count}  # by a bin's lower edge
    assert held == {-0.25: 1, -1.0: 2, -2.5: 1}


def tiny_lm() -> LM:
    return LM(tiny_model("llama"), None, LMConfig(name="tiny"), "none")  # type: ignore[arg-type]


def copying_coder() -> Coder:
    """x = relu(x) - relu(-x): a JumpReLU coder of 2 D latents that changes nothing."""
    config = CoderConfig(kind=Kind.jumprelu, num_latents=2 * WIDTH)
    coder = Coder(config, WIDTH, WIDTH, pre_bias=False).eval().requires_grad_(False)
    both_signs = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
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
    lm = tiny_lm()
    place = resolve(lm.model, site)
    spliced = {str(i): Spliced(coder, place, place) for i, coder in enumerate(coders)}
    loss = LMLoss(lm, spliced, torch.device("cpu"))
    ids_NS, trainable_NS = tiny_ids_NS(3), TRAINABLE_NS.bool()
    for batch in zip(ids_NS.split(list(split)), trainable_NS.split(list(split)), strict=True):
        loss.update(*batch)
    clean, figures = loss.result(mesh())
    return clean, list(figures.values())


@pytest.mark.parametrize("split", [(3,), (1, 1, 1), (2, 1)])
def test_the_clean_loss_is_the_mean_over_predicted_trainable_tokens(split: Sequence[int]) -> None:
    clean, _ = lm_loss("resid_post.1", copying_coder(), split=split)
    loss_NS = next_token_loss_NS(tiny_lm().model, tiny_ids_NS(3))
    assert clean == pytest.approx(float(loss_NS[TRAINABLE_NS[:, 1:].bool()].mean()), rel=1e-6)


@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.0", "embed"])
def test_a_coder_that_copies_costs_nothing(site: str) -> None:
    clean, (figures,) = lm_loss(site, copying_coder())
    assert figures["delta_loss"] == pytest.approx(0, abs=1e-5)
    assert figures["ce_increase_percent"] == pytest.approx(0, abs=1e-3)
    assert abs(figures["zero_ablation_loss"] - clean) > 1e-3
    assert figures["loss_recovered"] == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("site", ["resid_post.1", "mlp_out.0", "embed"])
def test_a_coder_that_gives_zeros_recovers_nothing(site: str) -> None:
    clean, (zero, copy) = lm_loss(site, zero_coder(), copying_coder())
    assert zero["loss_recovered"] == 0
    assert zero["delta_loss"] == zero["zero_ablation_loss"] - clean
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
