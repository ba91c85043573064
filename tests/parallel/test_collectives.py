"""A coder on a mesh equals the coder in one process: selection, losses, gradients, gathering."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_dist.coders.kinds.jumprelu as jumprelu_module
from sae_dist.coders import (
    Coder,
    DeadLatents,
    Form,
    LossTerms,
    kind_names,
    slice_of,
    training_forward,
)
from sae_dist.coders.collectives import SingleProcess
from sae_dist.coders.files import Rows, in_file_order
from sae_dist.coders.kinds.batchtopk import BatchTopK
from sae_dist.coders.kinds.jumprelu import Sparsity, TargetOf
from sae_dist.coders.select import _search_of, batch_top_k, batch_top_k_code, top_k, top_k_entries
from sae_dist.kernels import aux, topk_candidates
from sae_dist.parallel import (
    MeshCollectives,
    World,
    backward,
    gather_latents,
    gradient_norm,
    make_mesh,
    set_mesh,
)
from tests.coders.kinds import FORMS, config_of_kind
from tests.processes import run_on

D, E, F, B, K = 10, 7, 48, 24, 5
MESHES = [
    *((2, 1), (2, 2), (4, 2)),
    pytest.param(4, 1, marks=pytest.mark.slow),
    pytest.param(4, 4, marks=pytest.mark.slow),
]


def selection_inputs() -> dict[str, Tensor]:
    z_BF = torch.randn(B, F, generator=torch.Generator().manual_seed(0))
    skewed_BF = z_BF.clone()
    skewed_BF[:, -F // 4 :] += 100  # all winners are latents of the last slice of four
    skewed_rows_BF = z_BF.clone()
    skewed_rows_BF[:3] += 100  # all winners are rows of the first part of the batch
    return {
        "distinct": z_BF,
        "winners on one slice": skewed_BF,
        "winners in one part": skewed_rows_BF,
        "ties everywhere": z_BF.round(),
        "all equal": torch.ones(B, F),
        "nothing positive": -z_BF.abs(),
        "fewer positive than k": torch.where(torch.arange(F) < 2, z_BF.abs(), -1.0),
    }


def slice_here(mesh: Any) -> tuple[slice, slice]:
    latents = slice_of(F, mesh.latent.index, mesh.latent.size)
    rows = slice_of(B, mesh.data.index, mesh.data.size)
    return slice(rows.start, rows.stop), slice(latents.start, latents.stop)


def as_code(
    select: Callable[..., Tensor],
    z_BF: Tensor,
    k: int,
    guess: float | None,
    sharded: MeshCollectives,
) -> Tensor:
    """The mask that the sparse selection gives, with z as a product: of the identity and z."""
    x_BB = torch.eye(len(z_BF))
    coder = Coder(BatchTopK(num_latents=z_BF.shape[1], k=1), len(z_BF), 1)
    coder.W_enc.data, coder.b_enc.data[:], coder.collectives = z_BF.T.contiguous(), 0.0, sharded
    if select is top_k:
        code, z_N = topk_candidates(x_BB, coder.encoder(), k)
        code, z_N = code.keep(top_k_entries(code, z_N, k, sharded), z_N)
    else:
        if guess is not None:
            hint_R = torch.tensor([guess], dtype=torch.float64)
            coder.hints[f"threshold of {_search_of(k)}"] = hint_R
        code, z_N = batch_top_k_code(coder, x_BB, k)
    assert torch.equal(z_N, z_BF[code.rows_N, code.latents_N])
    mask_BF = torch.zeros_like(z_BF, dtype=torch.bool)
    mask_BF[code.rows_N, code.latents_N] = True
    return mask_BF


def select_on(world: World, latent: int) -> list[tuple[str, int, str]]:
    mesh = make_mesh(world, latent, {})
    rows, latents = slice_here(mesh)
    wrong = []
    for (name, z_BF), k in itertools.product(selection_inputs().items(), (1, 2.3, K, F)):
        for select in (top_k, batch_top_k) if isinstance(k, int) else (batch_top_k,):
            expected = select(z_BF, k, SingleProcess())[rows, latents]
            z_here_BF = z_BF[rows, latents].contiguous()
            if not torch.equal(select(z_here_BF, k, MeshCollectives(mesh)), expected):
                wrong.append((name, k, select.__name__))
            for guess in (None, 0.5, 2.0, 1e6):  # none, too low, about right, too high
                if not torch.equal(
                    as_code(select, z_here_BF, k, guess, MeshCollectives(mesh)), expected
                ):
                    wrong.append((name, k, f"{select.__name__} as code"))
    return wrong


@pytest.mark.parametrize(("world", "latent"), MESHES)
def test_selection_across_shards_is_exact(world: int, latent: int) -> None:
    assert run_on(world, select_on, latent) == [[]] * world


DEAD = {
    "everywhere": torch.arange(F) % 3 == 0,
    "on the last slice alone": torch.arange(F) >= F - F // 4 + 2,
}


def whole_coder(kind: str, form: Form) -> tuple[Coder, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    config = config_of_kind(
        kind,
        form=form,
        num_latents=F,
        k=K,
        aux_k=6,
        aux_coefficient=1 / 32,
        multi_topk=True,
        bandwidth=0.3,
        target_l0=4.0,
    )
    d_out = D if form is Form.autoencoder else E
    coder = Coder(config, D, d_out, dtype=torch.float64)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(random(*parameter.shape) / 3)
        coder.b_enc[-F // 4 :] += 2  # most winners on the last slice
    x_BD = random(B, D)
    return coder, x_BD, x_BD if form is Form.autoencoder else random(B, E)


PRICES = {  # of a JumpReLU
    Form.autoencoder: {
        "target_of": TargetOf.token,
        "pre_act_coefficient": 0.1,
        "ste_reaches_input": True,
    },
    Form.transcoder: {"target_l0": None, "sparsity": Sparsity.tanh_quad},
    Form.skip_transcoder: {
        "target_l0": None,
        "sparsity": Sparsity.tanh,
        "pre_act_coefficient": 0.1,
        "unit_norm_decoder": False,
    },
}


def loss_of(coder: Coder, x_BD: Tensor, y_BE: Tensor, dead: DeadLatents) -> LossTerms:
    return training_forward(coder, x_BD, y_BE, sparsity_coefficient=0.1, dead=dead)


def train_on(world: World, latent: int, dense_share: int) -> list[str]:
    mesh, wrong = make_mesh(world, latent, {}), []
    jumprelu_module._DENSE_SHARE = dense_share
    aux._BLOCK_VALUES["cpu"] = 2 * F  # a few rows at once of what AuxK asks
    rows, latents = slice_here(mesh)
    for kind, form, (where, dead_F) in itertools.product(kind_names(), FORMS, DEAD.items()):
        whole, x_BD, y_BE = whole_coder(kind, form)
        if where == "everywhere":  # and once as a Matryoshka coder
            whole.config.levels = [0.2, 0.6]
            if kind == "jumprelu":
                vars(whole.config).update(PRICES[form], initial_l0=4.0)
        dead = DeadLatents.of(dead_F)
        expected = loss_of(whole, x_BD, y_BE, dead)
        expected.loss.backward()
        held = range(latents.start, latents.stop)
        coder = Coder(whole.config, D, whole.d_out, latents=held, dtype=torch.float64)
        coder.load_state_dict(
            {
                n: t[latents] if n in whole.latent_tensors else t
                for n, t in whole.state_dict().items()
            }
        )
        set_mesh(coder, mesh)
        found = loss_of(coder, x_BD[rows], y_BE[rows], replace(dead, mask_F=dead_F[latents]))
        backward(found.loss, coder, mesh)

        def differs(a: Tensor, b: Tensor) -> bool:
            return not torch.allclose(a, b, rtol=1e-10, atol=1e-13)

        for name, parameter in coder.named_parameters():
            reference = whole.get_parameter(name).grad
            reference = reference[latents] if name in whole.latent_tensors else reference
            if differs(parameter.grad, reference):
                wrong.append(f"{kind} {form} dead {where}: gradient of {name}")
        norm = torch.cat([p.grad.flatten() for p in whole.parameters()]).norm()
        norms = {name: p.grad.norm() for name, p in coder.named_parameters()}
        figures = {
            "loss": (found.loss, expected.loss),
            "fvu": (found.fvu, expected.fvu),
            "l0": (found.l0.double(), expected.l0.double()),
            "norm": (gradient_norm(norms, coder, mesh), norm),
            **{part: (found.parts[part], expected.parts[part]) for part in expected.parts},
        }
        wrong += [
            f"{kind} {form} dead {where}: {name}"
            for name, pair in figures.items()
            if differs(*pair)
        ]
        gathered = gather_latents(coder, mesh)
        if (gathered is None) != (mesh.latent.index > 0):
            wrong.append("gathered on the wrong process")
        for name in in_file_order(gathered or {}):
            tensor = gathered[name]
            tensor = torch.cat(list(tensor.blocks)) if isinstance(tensor, Rows) else tensor
            if not torch.equal(tensor, whole.state_dict()[name]):
                wrong.append(f"{kind} {form} gathered {name}")
    return wrong


@pytest.mark.parametrize("dense_share", [1, 10**9], ids=["sparse", "dense"])
@pytest.mark.parametrize(("world", "latent"), [(2, 1), (2, 2), (4, 2)])
def test_losses_and_gradients_equal_one_process(world: int, latent: int, dense_share: int) -> None:
    assert run_on(world, train_on, latent, dense_share) == [[]] * world


def count_bytes(world: World) -> list[int]:
    mesh = make_mesh(world, 2, {})
    mesh.latent.all_reduce(torch.zeros(100))
    mesh.data.all_gather(torch.zeros(10, dtype=torch.float64))
    mesh.world.all_min(torch.zeros(()))
    return [mesh.latent.bytes_sent, mesh.data.bytes_sent, mesh.world.bytes_sent, mesh.bytes_sent]


def test_bytes_handed_to_collectives_are_counted_by_axis() -> None:
    assert run_on(4, count_bytes) == [[400, 80, 4, 484]] * 4
