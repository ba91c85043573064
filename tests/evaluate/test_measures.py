from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_dist.evaluate import CoderOutput, Fidelity, Measure
from sae_dist.evaluate.measures.consistency import ConsistentActivation
from sae_dist.evaluate.measures.frequency import FiringFrequency
from sae_dist.evaluate.measures.position import ReconstructionByPosition
from sae_dist.evaluate.measures.similarity import Similarity
from sae_dist.evaluate.output import moments
from sae_dist.evaluate.summary import histogram
from sae_dist.kernels import SparsePattern
from sae_dist.parallel import Mesh, make_mesh
from tests.evaluate.made_up import subject
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


def seen(acts_BF: Tensor, y_BE: Tensor, ŷ_BE: Tensor, first: int = 0) -> CoderOutput:
    """Sequences of ten tokens, the first token being number `first` of all."""
    row_N, latent_N = acts_BF.nonzero(as_tuple=True)
    token_B = first + torch.arange(len(acts_BF))
    return CoderOutput(
        y_BE=y_BE,
        reconstruction_BE=ŷ_BE,
        code=SparsePattern.from_rows(row_N, latent_N, *acts_BF.shape),
        acts_N=acts_BF[row_N, latent_N],
        sequence_B=token_B // 10,
        position_B=token_B % 10,
        input_ids_NS=100 + torch.arange((first + len(acts_BF)) // 10 * 10 + 10).view(-1, 10),
    )


def measured(measure: Measure, split: Sequence[int], *parts: Tensor) -> dict:
    """What a measure gives of (acts_BF, y_BE, ŷ_BE), batch by batch."""
    first = 0
    for batch in zip(*(v.split(list(split)) for v in parts), strict=True):
        measure.update(seen(*batch, first))
        first += len(batch[0])
    return measure.result()


def measure(split: Sequence[int], acts_BF: Tensor, y_BE: Tensor, ŷ_BE: Tensor) -> dict:
    return measured(Fidelity(subject(width=D_OUT)), split, acts_BF, y_BE, ŷ_BE)


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
    frequency = FiringFrequency(subject(5))
    y_BE = torch.zeros(NUM_TOKENS, D_OUT)
    found = measured(frequency, split, acts_BF, y_BE, y_BE)
    assert found["share_above_1_percent"] == 0.6
    assert found["share_above_10_percent"] == 0.6
    histogram = found["firing_frequency"]
    edges, counts = histogram["edges_log10"], histogram["counts"]
    assert (edges[0], edges[-1], len(edges)) == (-7, 0, 29)
    assert (found["dead_share"], histogram["never"]) == (0.2, 1)
    held = {edges[i]: count for i, count in enumerate(counts) if count}  # by a bin's lower edge
    assert held == {-0.25: 1, -1.0: 2, -2.5: 1}


def test_fvu_variants_are_what_others_report() -> None:
    acts_BF, y_BE, ŷ_BE = made_up()
    split = [150, 50]
    found = measure(split, acts_BF, y_BE, ŷ_BE + 0.5)["fvu_variants"]
    y, e = y_BE.double().numpy(), (y_BE.double() - ŷ_BE.double() - 0.5).numpy()
    total = ((y - y.mean(0)) ** 2).sum()
    assert found["error_variance"] == pytest.approx(((e - e.mean(0)) ** 2).sum() / total, rel=1e-5)
    own = np.concatenate([part - part.mean(0) for part in np.split(y, [150])])
    assert found["batch_mean"] == pytest.approx((e**2).sum() / (own**2).sum(), rel=1e-5)
    ratios = (e**2).sum(1) / (own**2).sum(1)
    assert found["token_mean"] == pytest.approx(ratios.mean(), rel=1e-5)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_similarity_is_that_of_the_vectors(split: list[int]) -> None:
    acts_BF, y_BE, ŷ_BE = made_up()
    found = measured(Similarity(subject()), split, acts_BF, y_BE, 0.5 * ŷ_BE)
    y, ŷ = y_BE.double().numpy(), 0.5 * ŷ_BE.double().numpy()
    norms = np.linalg.norm(y, axis=1), np.linalg.norm(ŷ, axis=1)
    products = (y * ŷ).sum(1)
    assert found["cosine_similarity"] == pytest.approx((products / norms[0] / norms[1]).mean())
    assert found["l2_norm_ratio"] == pytest.approx((norms[1] / norms[0]).mean())
    assert found["relative_reconstruction_bias"] == pytest.approx(
        (norms[1] ** 2).sum() / products.sum()
    )


@pytest.mark.parametrize("num_rows", [0, 1, 128, 129, 1000])
def test_moments_of_blocks_are_those_of_the_whole(num_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    y_BE = 3 * torch.randn(num_rows, 7, generator=generator) + 20
    ŷ_BE = y_BE + torch.randn(num_rows, 7, generator=generator)
    found = moments(y_BE, ŷ_BE)
    y, ŷ = y_BE.double(), ŷ_BE.double()
    expected = {
        "square_B": y.square().sum(1),
        "reconstruction_square_B": ŷ.square().sum(1),
        "product_B": (y * ŷ).sum(1),
        "error_B": (y - ŷ).square().sum(1),
        "within_B": (y - y.mean(0)).square().sum(1),
        "sum_E": y.sum(0),
        "error_sum_E": (y - ŷ).sum(0),
    }
    assert found._asdict().keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-12, atol=1e-12)


def test_what_passes_a_coder_knows_its_tokens() -> None:
    some = seen(*made_up(), first=20)
    assert torch.equal(some.input_ids_B, torch.arange(120, 120 + NUM_TOKENS))


def test_entries_of_zero_are_not_active() -> None:
    acts_BF = torch.tensor([[0.0, 2.0], [3.0, 4.0]])
    some = seen(acts_BF, acts_BF, acts_BF)
    some.acts_N[1] = 0.0
    code, acts_N = some.active
    assert (code.rows_N.tolist(), code.latents_N.tolist()) == ([0, 1], [1, 1])
    assert acts_N.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("value", [0.0, 0.001, -3.7, 1e30, 1e-30])
@pytest.mark.parametrize("apart", [0.0, 1e-12])
def test_a_histogram_of_equal_values_has_bins_of_some_width(value: float, apart: float) -> None:
    values = torch.tensor([value, value * (1 + apart), value], dtype=torch.float64)
    found = histogram(values, 40)
    edges = found["edges"]
    assert all(low < high for low, high in pairwise(edges)) and len(edges) == 41
    assert sum(found["counts"]) == 3 and sum(found["counts"][19:21]) == 3


def test_a_histogram_counts_from_the_least_to_the_largest() -> None:
    found = histogram(torch.tensor([0.0, 0.1, 0.25, 0.9, 1.0]), 4)
    assert found == {"edges": [0.0, 0.25, 0.5, 0.75, 1.0], "counts": [2, 1, 0, 2]}


@pytest.mark.parametrize("value", [0.0, 3.1, 1e30])
def test_equal_targets_have_no_fvu(value: float) -> None:
    acts_BF, y_BE, ŷ_BE = made_up()
    y_BE = torch.full_like(y_BE, value)
    found = measure([150, 50], acts_BF, y_BE, ŷ_BE)
    assert found["fvu"] is found["variance_explained"] is None
    assert set(found["fvu_variants"].values()) == {None}
    assert measure([200], acts_BF, ŷ_BE, y_BE)["fvu"] > 1


def test_a_token_of_zeros_has_no_norm_ratio_and_a_cosine_of_zero() -> None:
    acts_BF, y_BE, _ = made_up()
    y_BE[0] = 0
    found = measured(Similarity(subject()), [200], acts_BF, y_BE, y_BE)
    assert found["l2_norm_ratio"] is None
    assert found["cosine_similarity"] == pytest.approx(199 / 200)
    found = measured(Similarity(subject()), [200], acts_BF, y_BE, 0 * y_BE)
    assert found["relative_reconstruction_bias"] is None and found["cosine_similarity"] == 0


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_each_position_has_its_own_loss(split: list[int]) -> None:
    acts_BF, y_BE, ŷ_BE = made_up()
    y_BE, ŷ_BE, acts_BF = (v[:195] for v in (y_BE, ŷ_BE, acts_BF))  # five tokens short
    split = [*split[:-1], split[-1] - 5] if split[-1] >= 5 else [195]
    measure = ReconstructionByPosition(subject(width=D_OUT, num_positions=11))
    found = measured(measure, split, acts_BF, y_BE, ŷ_BE)["by_position"]
    error_B = (y_BE.double() - ŷ_BE.double()).square().sum(1)
    assert found["tokens"] == [20] * 5 + [19] * 5 + [0]
    assert found["mse"][10] is None and found["fvu"][10] is None
    assert found["mse"][3] == pytest.approx(float(error_B[3::10].mean()))
    mean_fvu = (
        sum(n * f for n, f in zip(found["tokens"][:10], found["fvu"][:10], strict=True)) / 195
    )
    whole = measured(Fidelity(subject(width=D_OUT)), [195], acts_BF, y_BE, ŷ_BE)
    assert mean_fvu == pytest.approx(whole["fvu"])


@pytest.mark.parametrize("split", [[200], [50, 150], [100, 100]], ids=str)
def test_both_consistency_heuristics_are_counted_as_by_hand(split: list[int]) -> None:
    acts_BF = torch.zeros(NUM_TOKENS, 3)
    acts_BF[0:10, 0] = 2.0  # every token of one sequence
    acts_BF[5:200:20, 1] = 4.0  # one token in each second sequence
    y_BE = torch.zeros(NUM_TOKENS, D_OUT)
    found = measured(ConsistentActivation(subject(3)), split, acts_BF, y_BE, y_BE)
    caption, code = (found[f"consistent_activation_{name}"] for name in ("caption", "code"))
    assert caption["mean"] == pytest.approx((20 + 40) / NUM_TOKENS / 2)
    assert (code["mean"], code["quantiles"]["0.1"], code["quantiles"]["0.9"]) == (5.5, 1.0, 10.0)


def test_activations_of_either_sign_do_not_cancel() -> None:
    acts_BF = torch.tensor([[3.0], [-3.0]])
    y_BE = torch.zeros(2, D_OUT)
    found = measured(ConsistentActivation(subject(1)), [2], acts_BF, y_BE, y_BE)
    assert found["consistent_activation_caption"]["mean"] == 3.0
