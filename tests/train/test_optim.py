"""Adam over a coder against torch's own: dense, by rows, projected, resumed."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_dist.coders import Coder, Form
from sae_dist.kernels import Encoder
from sae_dist.train.config import OptimConfig
from sae_dist.train.optim import Adam, gradient_squares
from tests.coders.kinds import config_of_kind

F, D = 1100, 6  # more rows than a block of the update has
LR = 1e-2


def make(unit_norm: bool, dtype: torch.dtype = torch.float64) -> Coder:
    config = config_of_kind(
        "topk",
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


def reference(unit_norm: bool, beta1: float, share: float, num_steps: int) -> Coder:
    """torch's Adam on dense gradients, with the projection and the scaling around it."""
    coder = make(unit_norm)
    adam = torch.optim.Adam(coder.parameters(), lr=LR, betas=(beta1, 0.99))
    for step in range(num_steps):
        for name, grad in gradients(coder, step, share).items():
            W = coder.get_parameter(name)
            if name == "W_dec" and unit_norm:
                grad = grad - (grad * W.detach()).sum(1, keepdim=True) * W.detach()
            W.grad = 0.5 * grad
        adam.step()
        if unit_norm:
            coder.W_dec.data = normalize(coder.W_dec.data, dim=1)
    return coder


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize(("beta1", "by_rows"), [(0.9, False), (0.0, False), (0.0, True)])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_updates_equal_torchs(unit_norm: bool, beta1: float, by_rows: bool, share: float) -> None:
    coder, num_steps = make(unit_norm), 20
    adam = Adam(coder, OptimConfig(lr=LR, beta1=beta1, beta2=0.99))
    for step in range(num_steps):
        for name, grad in gradients(coder, step, share).items():
            is_sparse = by_rows and name in ("W_enc", "W_dec")
            coder.get_parameter(name).grad = as_sparse(grad) if is_sparse else grad
        adam.step(LR, torch.tensor(0.5, dtype=torch.float64))
    expected = reference(unit_norm, beta1, share, num_steps)
    for (name, found), wanted in zip(coder.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=name)


def test_rows_without_gradient_are_neither_read_nor_written() -> None:
    coder = make(unit_norm=True)
    adam = Adam(coder, OptimConfig(lr=LR, beta1=0.0))
    for name, grad in gradients(coder, 0, 1.0).items():
        coder.get_parameter(name).grad = grad
    for name in ("W_enc", "W_dec"):
        W_FD = coder.get_parameter(name)
        W_FD.grad = as_sparse(
            torch.zeros(F, D, dtype=torch.float64).index_fill(0, torch.tensor([3]), 1.0)
        )
        with torch.no_grad():
            W_FD[5] = torch.nan
    adam.step(LR, torch.ones(()))
    assert bool(coder.W_dec[5].isnan().all())
    assert adam.exp_avg_sq["W_dec"].nonzero()[:, 0].unique().tolist() == [3]
    assert not bool(coder.W_dec[3].isnan().any())


def test_no_first_moment_of_rows_is_kept_with_beta1_zero() -> None:
    kept = {(name, key) for name, key, _ in Adam(make(True), OptimConfig(beta1=0.0)).tensors()}
    assert {key for name, key in kept if name == "W_dec"} == {"exp_avg_sq", "seen"}
    kept = {(name, key) for name, key, _ in Adam(make(True), OptimConfig(beta1=0.9)).tensors()}
    assert {key for name, key in kept if name == "W_dec"} == {"exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("by_rows", [True, False])
def test_the_encoders_copy_follows_its_weights(by_rows: bool) -> None:
    coder = make(unit_norm=True, dtype=torch.float32)
    adam = Adam(coder, OptimConfig(lr=LR, beta1=0.0))
    before = coder.encoder()
    for step in range(3):
        for name, grad in gradients(coder, step, 0.1).items():
            is_sparse = by_rows and name in ("W_enc", "W_dec")
            coder.get_parameter(name).grad = (as_sparse(grad) if is_sparse else grad).float()
        adam.step(LR, torch.ones(()))
    assert coder.encoder() is before
    fresh = Encoder.of(coder.W_enc, coder.b_enc)
    for name in ("bf16_FD", "error_F", "norm_F"):
        assert torch.equal(getattr(coder.encoder(), name), getattr(fresh, name))
    with torch.no_grad():
        coder.W_enc[0] += 1
    assert torch.equal(coder.encoder().bf16_FD, Encoder.of(coder.W_enc, coder.b_enc).bf16_FD)


@pytest.mark.parametrize("by_rows", [True, False])
def test_squares_are_those_of_the_projected_gradient(by_rows: bool) -> None:
    coder = make(unit_norm=True)
    for name, grad in gradients(coder, 0, 0.1).items():
        is_sparse = by_rows and name in ("W_enc", "W_dec")
        coder.get_parameter(name).grad = as_sparse(grad) if is_sparse else grad
    grads = gradients(coder, 0, 0.1)
    W_FD = coder.W_dec.detach()
    grads["W_dec"] -= (grads["W_dec"] * W_FD).sum(1, keepdim=True) * W_FD
    for name, square in gradient_squares(coder).items():
        torch.testing.assert_close(square, grads[name].square().sum())
