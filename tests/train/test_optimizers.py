"""Every optimizer against torch's own or plain arithmetic: dense, by rows, projected."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.coders import Coder, Form
from sae_dist.coders.kinds.topk import TopK
from sae_dist.kernels import Encoder, host, search
from sae_dist.train.optimizers import (
    Adam,
    Muon,
    OptimConfig,
    Optimizer,
    Signum,
    WeightAverage,
    gradient_norms,
)
from sae_dist.train.optimizers.muon import orthogonalizer

F, D = 1100, 6  # more rows than a block of the update has
TAKEN = torch.tensor(False)
LR = 1e-2


def make(unit_norm: bool, dtype: torch.dtype = torch.float64) -> Coder:
    config = TopK(
        form=Form.skip_transcoder,
        num_latents=F,
        k=2,
        unit_norm_decoder=unit_norm,
    )
    coder = Coder(config, D, D, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        coder.W_dec.copy_(normalize(coder.W_dec, dim=1))
    return coder


def gradients(coder: Coder, step: int, share: float) -> dict[str, Tensor]:
    """A gradient of each parameter, whose rows are zero but for a share of the latents."""
    generator = torch.Generator().manual_seed(step + 1)
    touched_F1 = torch.rand(F, 1, generator=generator) < share
    grads = {}
    for name, parameter in coder.named_parameters():
        grads[name] = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name in ("W_enc", "W_dec"):
            grads[name] *= touched_F1
    return grads


def as_sparse(grad_FD: Tensor) -> Tensor:
    rows_R = grad_FD.abs().sum(1).nonzero().flatten()
    return torch.sparse_coo_tensor(rows_R[None], grad_FD[rows_R], grad_FD.shape, is_coalesced=True)


def assert_like_the_reference(
    config: OptimConfig, reference: Callable[[Coder], Callable[[], None]], unit_norm: bool, **how
) -> None:
    """Ten steps as `reference` has them: dense gradients, projection before, scaling after."""
    coder, expected = make(unit_norm), make(unit_norm)
    by_rows, share = how["by_rows"], how["share"]
    optimizer, take_step = Optimizer(coder, config), reference(expected)
    for step in range(10):
        for name, grad in gradients(coder, step, share).items():
            is_sparse = by_rows and name in ("W_enc", "W_dec")
            coder.get_parameter(name).grad = as_sparse(grad) if is_sparse else grad.clone()
            W = expected.get_parameter(name)
            if name == "W_dec" and unit_norm:
                grad = grad - (grad * W.detach()).sum(1, keepdim=True) * W.detach()
            W.grad = 0.5 * grad
        optimizer.step(torch.tensor(step + 1), LR, torch.tensor(0.5, dtype=torch.float64), TAKEN)
        take_step()
        if unit_norm:
            expected.W_dec.data = normalize(expected.W_dec.data, dim=1)
    for (name, found), wanted in zip(coder.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize(("beta1", "by_rows"), [(0.9, False), (0.0, False), (0.0, True)])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_adam_is_torchs(unit_norm: bool, beta1: float, by_rows: bool, share: float) -> None:
    def reference(coder: Coder) -> Callable[[], None]:
        return torch.optim.Adam(coder.parameters(), lr=LR, betas=(beta1, 0.99)).step

    config = Adam(beta1=beta1, beta2=0.99)
    assert_like_the_reference(config, reference, unit_norm, by_rows=by_rows, share=share)


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize(("momentum", "by_rows"), [(0.9, False), (0.0, False), (0.0, True)])
def test_signum_is_sgd_with_the_sign_of_its_momentum(
    unit_norm: bool, momentum: float, by_rows: bool
) -> None:
    def reference(coder: Coder) -> Callable[[], None]:
        means = {name: torch.zeros_like(p) for name, p in coder.named_parameters()}
        sgd = torch.optim.SGD(coder.parameters(), lr=LR)

        def take_step() -> None:
            for name, parameter in coder.named_parameters():
                means[name] = momentum * means[name] + (1 - momentum) * parameter.grad
                parameter.grad = means[name].sign()
            sgd.step()

        return take_step

    config = Signum(momentum=momentum)
    assert_like_the_reference(config, reference, unit_norm, by_rows=by_rows, share=0.1)


def muon_reference(coder: Coder) -> Callable[[], None]:
    """torch's Muon of the matrices, and its Adam of the vectors."""
    matrices = [p for p in coder.parameters() if p.dim() == 2]
    vectors = [p for p in coder.parameters() if p.dim() == 1]
    muon = torch.optim.Muon(matrices, lr=LR, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(vectors, lr=LR)

    def take_step() -> None:
        muon.step()
        adam.step()

    return take_step


def in_full(grad_FD: Tensor, coefficients: tuple, num_steps: int, eps: float) -> Tensor:
    """Newton and Schulz's iteration as torch has it, but in the gradient's dtype."""
    X_DF = grad_FD.T / grad_FD.norm().clamp(min=eps)
    a, b, c = coefficients
    for _ in range(num_steps):
        A_DD = X_DF @ X_DF.T
        X_DF = a * X_DF + (b * A_DD + c * A_DD @ A_DD) @ X_DF
    return X_DF.T


@pytest.mark.parametrize("unit_norm", [True, False])
def test_muon_is_torchs_in_full_precision(unit_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", in_full)
    config = Muon(weight_decay=0.2)
    assert_like_the_reference(config, muon_reference, unit_norm, by_rows=False, share=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(500, 12), (12, 500), (40, 40)])
def test_a_gram_matrix_is_enough_to_make_orthogonal(shape: tuple, dtype: torch.dtype) -> None:
    """Also where singular values spread over four powers of ten."""
    generator = torch.Generator().manual_seed(0)
    grad_FD = torch.randn(*shape, generator=generator, dtype=torch.float64)
    grad_FD = (grad_FD * torch.logspace(0, -4, shape[1], dtype=torch.float64)).to(dtype)
    found_FD = grad_FD @ orthogonalizer(grad_FD.T @ grad_FD, 5)
    expected_FD = in_full(grad_FD.double(), (3.4445, -4.7750, 2.0315), 5, 1e-7)
    error = (found_FD.double() - expected_FD).norm() / expected_FD.norm()
    assert error < (1e-3 if dtype is torch.float32 else 1e-9)
    zero_FD = torch.zeros_like(grad_FD)
    assert not (zero_FD @ orthogonalizer(zero_FD.T @ zero_FD, 5)).any()


@pytest.mark.parametrize("config", [Adam(beta1=0.0), Signum(momentum=0.0)])
def test_rows_without_gradient_are_neither_read_nor_written(config: OptimConfig) -> None:
    assert config.moves_fired_rows_alone
    coder = make(unit_norm=True)
    optimizer = Optimizer(coder, config)
    for name, grad in gradients(coder, 0, 1.0).items():
        coder.get_parameter(name).grad = grad
    for name in ("W_enc", "W_dec"):
        W_FD = coder.get_parameter(name)
        W_FD.grad = as_sparse(
            torch.zeros(F, D, dtype=torch.float64).index_fill(0, torch.tensor([3]), 1.0)
        )
        with torch.no_grad():
            W_FD[5] = torch.nan
    optimizer.step(torch.tensor(1), LR, torch.ones(()), TAKEN)
    assert bool(coder.W_dec[5].isnan().all())
    assert not bool(coder.W_dec[3].isnan().any())
    for state in optimizer.state["W_dec"].values():
        assert state.view(F, -1).nonzero()[:, 0].unique().tolist() == [3]


@pytest.mark.parametrize(
    ("config", "of_matrices", "of_vectors"),
    [
        (Adam(beta1=0.0), {"exp_avg_sq", "last_step"}, {"exp_avg_sq"}),
        (Adam(beta1=0.9), {"exp_avg", "exp_avg_sq"}, {"exp_avg", "exp_avg_sq"}),
        (Signum(), {"momentum"}, {"momentum"}),
        (Signum(momentum=0.0), set(), set()),
        (Muon(), {"momentum"}, {"exp_avg", "exp_avg_sq"}),
    ],
)
def test_no_more_is_remembered_than_needed(
    config: OptimConfig, of_matrices: set, of_vectors: set
) -> None:
    kept = list(Optimizer(make(True), config).tensors())
    assert {key for name, key, _ in kept if name == "W_dec"} == of_matrices
    assert {key for name, key, _ in kept if name == "b_enc"} == of_vectors


def test_the_average_is_a_bias_corrected_exponential_one() -> None:
    coder, decay = make(unit_norm=True), 0.9
    average, plain = WeightAverage(coder, decay), copy.deepcopy(coder.state_dict())
    uncorrected = {name: torch.zeros_like(W) for name, W in plain.items()}
    for step in range(1, 8):
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.add_(math.sin(step))
        for name, W in coder.named_parameters():
            uncorrected[name] = decay * uncorrected[name] + (1 - decay) * W.detach()
        average.update(torch.tensor(step), TAKEN)
        for name, mean in average.weights.items():
            torch.testing.assert_close(mean, uncorrected[name] / (1 - decay**step))
    found = average.rows_at_unit_norm()
    torch.testing.assert_close(found["W_dec"], normalize(average.weights["W_dec"], dim=1))
    assert torch.equal(found["W_enc"], average.weights["W_enc"])


@pytest.mark.parametrize("searched", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_rows", [True, False])
def test_the_encoders_copy_follows_its_weights(
    by_rows: bool, searched: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "search_dtype", lambda W_FD: searched)
    coder = make(unit_norm=True, dtype=torch.float32)
    adam = Optimizer(coder, Adam(beta1=0.0))
    before = coder.encoder()
    for step in range(3):
        for name, grad in gradients(coder, step, 0.1).items():
            is_sparse = by_rows and name in ("W_enc", "W_dec")
            coder.get_parameter(name).grad = (as_sparse(grad) if is_sparse else grad).float()
        adam.step(torch.tensor(step + 1), LR, torch.ones(()), TAKEN)
    assert coder.encoder() is before
    fresh = Encoder.of(coder.W_enc, coder.b_enc)
    assert fresh.bf16_FD.dtype is searched
    for name in ("bf16_FD", "error_F", "norm_F"):
        assert torch.equal(getattr(coder.encoder(), name), getattr(fresh, name))
    with torch.no_grad():
        coder.W_enc[0] += 1
    assert torch.equal(coder.encoder().bf16_FD, Encoder.of(coder.W_enc, coder.b_enc).bf16_FD)


@pytest.mark.parametrize("by_rows", [True, False])
def test_norms_are_those_of_the_projected_gradient(by_rows: bool) -> None:
    coder = make(unit_norm=True)
    for name, grad in gradients(coder, 0, 0.1).items():
        is_sparse = by_rows and name in ("W_enc", "W_dec")
        coder.get_parameter(name).grad = as_sparse(grad) if is_sparse else grad
    grads = gradients(coder, 0, 0.1)
    W_FD = coder.W_dec.detach()
    grads["W_dec"] -= (grads["W_dec"] * W_FD).sum(1, keepdim=True) * W_FD
    for name, norm in gradient_norms(coder).items():
        torch.testing.assert_close(norm, grads[name].norm())


@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize(
    "config", [Adam(), Adam(beta1=0.9), Signum(), Signum(momentum=0.0), Muon()], ids=repr
)
def test_a_step_to_be_skipped_leaves_weights_and_state(
    config: OptimConfig, at_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "is_at_hand", lambda x: at_hand)
    coder = make(unit_norm=False, dtype=torch.float32)
    optimizer, average = Optimizer(coder, config), WeightAverage(coder, 0.9)

    def take(number: int, skip: bool) -> None:
        for name, grad in gradients(coder, number, 1.0).items():
            coder.get_parameter(name).grad = grad.float() * (math.nan if skip else 1.0)
        scale, skips = torch.tensor(math.nan if skip else 1.0), torch.tensor(skip)
        optimizer.step(torch.tensor(number), LR, scale, skips)
        average.update(torch.tensor(number), skips)

    def everything() -> list[Tensor]:
        state = [tensor for *_, tensor in optimizer.tensors()]
        return [
            t.clone() for t in (*coder.state_dict().values(), *state, *average.weights.values())
        ]

    begun = everything()
    take(1, skip=False)
    before = everything()
    assert not any(map(torch.equal, begun[:4], before[:4]))
    take(1, skip=True)
    assert all(map(torch.equal, before, everything()))
