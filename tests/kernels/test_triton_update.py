"""The update in Triton against torch's Adam and its specification: some rows, gaps, zero rows."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_dist.kernels import AdamRows, AdamStep
from tests.kernels import reference

triton_update = pytest.importorskip(
    "sae_dist.kernels.triton_update", reason="needs triton", exc_type=ImportError
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def matrix(num_rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator).to(DEVICE)


def adam_step(step: int, scale: float = 1.0, **changes: Any) -> AdamStep:
    settings = {"lr": 0.01, "beta1": 0.0, "beta2": 0.99, "eps": 1e-8, "unit_norm": False} | changes
    return AdamStep(
        number=torch.tensor(step, device=DEVICE),
        skip=torch.tensor(False, device=DEVICE),
        grad_scale=torch.tensor(scale, device=DEVICE),
        **settings,
    )


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(1, 7), (3, 100)], ids=str)
def test_six_steps_are_those_of_torch(shape: tuple[int, int], beta1: float) -> None:
    W_FD, v_FD = matrix(*shape, seed=0), torch.zeros(shape, device=DEVICE)
    rows = AdamRows(
        W_FD=W_FD, exp_avg_sq_FD=v_FD, exp_avg_FD=torch.zeros_like(v_FD) if beta1 else None
    )
    expected_FD = torch.nn.Parameter(W_FD.clone())
    adam = torch.optim.Adam([expected_FD], lr=0.01, betas=(beta1, 0.99))
    for step in range(1, 7):
        grad_FD = matrix(*shape, seed=step)
        expected_FD.grad = 0.5 * grad_FD
        adam.step()
        triton_update.update_rows(rows, grad_FD, None, adam_step(step, 0.5, beta1=beta1))
    torch.testing.assert_close(W_FD, expected_FD.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(v_FD, adam.state[expected_FD]["exp_avg_sq"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("beta2", [0.99, 0.0])
def test_rows_that_come_late_are_where_adam_would_have_them(beta2: float) -> None:
    """With beta1 = 0 a row without gradient stays, and only its second moment decays."""
    shape = (7, 24)
    W_FD, v_FD = matrix(*shape, seed=0), torch.zeros(shape, device=DEVICE)
    last_step_F = torch.zeros(7, dtype=torch.int64, device=DEVICE)
    rows = AdamRows(W_FD=W_FD, exp_avg_sq_FD=v_FD, last_step_F=last_step_F)
    expected_FD = torch.nn.Parameter(W_FD.clone())
    adam = torch.optim.Adam([expected_FD], lr=0.01, betas=(0.0, beta2))
    for step in range(1, 13):
        rows_R = torch.tensor([f for f in range(6) if step % (f + 1) == 0], device=DEVICE)
        grad_RD = matrix(len(rows_R), 24, seed=step)
        expected_FD.grad = torch.zeros_like(W_FD).index_copy(0, rows_R, grad_RD)
        adam.step()
        triton_update.update_rows(rows, grad_RD, rows_R, adam_step(step, beta2=beta2))
    assert last_step_F.tolist() == [12, 12, 12, 12, 10, 12, 0]
    torch.testing.assert_close(W_FD, expected_FD.detach(), rtol=1e-6, atol=1e-6)
    decayed_FD = v_FD * (beta2 ** (12 - last_step_F))[:, None]
    expected_v_FD = adam.state[expected_FD]["exp_avg_sq"]
    torch.testing.assert_close(decayed_FD, expected_v_FD, rtol=1e-5, atol=1e-9)


def state(shape: tuple[int, int], beta1: float) -> dict[str, Tensor]:
    """Unit rows, the last of them zero, and a state as after some steps."""
    W_FD = torch.nn.functional.normalize(matrix(*shape, seed=0))
    W_FD[-1] = 0.0
    num_rows = shape[0]
    first = {"exp_avg_FD": matrix(*shape, seed=2)} if beta1 else {}
    return first | {
        "W_FD": W_FD,
        "exp_avg_sq_FD": matrix(*shape, seed=1).square(),
        "bf16_FD": W_FD.bfloat16(),
        "error_F": torch.full((num_rows,), torch.nan, device=DEVICE),
        "norm_F": torch.full((num_rows,), torch.nan, device=DEVICE),
    }


@pytest.mark.parametrize("unit_norm", [True, False], ids=["unit", "free"])
@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(1, 7), (5, 24), (4, 1100), (16, 2304)], ids=str)
def test_every_row_in_one_pass(shape: tuple[int, int], beta1: float, unit_norm: bool) -> None:
    found, expected = state(shape, beta1), state(shape, beta1)
    grad_FD = matrix(*shape, seed=3)
    grad_FD[-1] = 0.0
    adam = adam_step(5, 0.25, beta1=beta1, unit_norm=unit_norm)
    triton_update.update_rows(AdamRows(**found), grad_FD, None, adam)
    reference.update_rows(AdamRows(**expected), grad_FD, None, adam)
    for name in set(found) - {"bf16_FD", "error_F"}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)
    assert torch.equal(found["bf16_FD"], found["W_FD"].bfloat16())
    error_F = (found["W_FD"] - found["bf16_FD"]).norm(dim=1)
    torch.testing.assert_close(found["error_F"], error_F, rtol=1e-5, atol=1e-9)
    if unit_norm:
        norms = torch.ones(shape[0], device=DEVICE)
        norms[-1] = 1.0 if beta1 else 0.0  # only a momentum moves a zero row
        torch.testing.assert_close(found["norm_F"], norms)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # 0 / 0 in the interpreter
def test_only_the_given_rows_change() -> None:
    tensors = state((6, 24), 0.0)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    rows_R = torch.tensor([1, 4], device=DEVICE)
    last_step_F = torch.tensor([3, 2, 0, 0, 4, 1], device=DEVICE)
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    expected_seen_F = last_step_F.clone()
    grad_RD = matrix(2, 24, seed=3)
    adam = adam_step(5, unit_norm=True, eps=0.0)  # 0 / 0 beyond the width must not reach the norm
    triton_update.update_rows(AdamRows(**tensors, last_step_F=last_step_F), grad_RD, rows_R, adam)
    reference.update_rows(AdamRows(**expected, last_step_F=expected_seen_F), grad_RD, rows_R, adam)
    assert last_step_F.tolist() == expected_seen_F.tolist() == [3, 5, 0, 0, 5, 1]
    for name in ("W_FD", "exp_avg_sq_FD", "norm_F"):
        torch.testing.assert_close(tensors[name][rows_R], expected[name][rows_R])
    others = torch.tensor([0, 2, 3, 5], device=DEVICE)
    for name, tensor in tensors.items():
        torch.testing.assert_close(
            tensor[others], before[name][others], rtol=0.0, atol=0.0, equal_nan=True
        )
        assert not torch.equal(tensor[rows_R], before[name][rows_R])


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_there_may_be_room_for_more_rows_than_there_are(beta1: float) -> None:
    """With a first moment the others' gradient is 0, and without one they stay."""
    found, expected = state((6, 24), beta1), state((6, 24), beta1)
    rows_R = torch.tensor([1, 4, 6, 6], device=DEVICE)
    grad_RD = matrix(4, 24, seed=3)
    grad_RD[2:] = 0.0
    adam = adam_step(5, beta1=beta1, unit_norm=True)
    triton_update.update_rows(AdamRows(**found), grad_RD, rows_R, adam)
    reference.update_rows(AdamRows(**expected), grad_RD, rows_R, adam)
    for name in set(found) - {"bf16_FD", "error_F"}:
        torch.testing.assert_close(found[name], expected[name], equal_nan=True, msg=name)


@pytest.mark.parametrize("is_projected", [True, False])
@pytest.mark.parametrize("rows", [None, [1, 4, 6, 6]], ids=str)
def test_the_square_of_a_gradient(rows: list[int] | None, is_projected: bool) -> None:
    W_FD = state((6, 24), 0.0)["W_FD"] if is_projected else None
    rows_R = None if rows is None else torch.tensor(rows, device=DEVICE)
    grad_RD = matrix(6 if rows is None else 4, 24, seed=3)
    if rows is not None:
        grad_RD[2:] = 0.0
    found = triton_update.gradient_square(grad_RD, rows_R, W_FD)
    torch.testing.assert_close(found, reference.gradient_square(grad_RD, rows_R, W_FD))


def test_no_rows_are_no_work() -> None:
    tensors = state((3, 7), 0.0)
    none_R = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    rows, adam = AdamRows(**tensors), adam_step(1, unit_norm=True)
    triton_update.update_rows(rows, matrix(0, 7, seed=0), none_R, adam)
    assert torch.equal(tensors["W_FD"], state((3, 7), 0.0)["W_FD"])
