"""A crosscoder's sites: FVU, norms, latent scaling, and what each costs the language model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_dist.coders import Coder, Form, save_coder
from sae_dist.evaluate import EvaluationConfig, evaluate, finished, run_coder
from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.evaluate.measures.sites import Sites
from sae_dist.parallel import World, make_mesh, set_mesh
from sae_dist.store import AlignedStores, open_store
from sae_dist.stream import StoredActivations
from tests.coders.kinds import config_of_kind
from tests.evaluate.made_up import subject_of
from tests.evaluate.test_lm_loss import TRAINABLE_NS, copying_coder, tiny_lm
from tests.harvest.tiny import tiny_harvest
from tests.lm.tiny import WIDTH, tiny_ids_NS
from tests.processes import alone, run_on

D, F, N = 5, 12, 40
PAIR = "resid_post.3+chat:resid_post.3"


def made_up() -> tuple[Coder, Tensor]:
    """A crosscoder of two sites, with latents of one site alone, and inputs."""
    generator = torch.Generator().manual_seed(0)
    config = config_of_kind("topk", form=Form.crosscoder, num_latents=F, k=3, num_sites=2)
    coder = Coder(config, 2 * D, 2 * D, pre_bias=False).eval().requires_grad_(False)
    for tensor in coder.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    coder.W_dec[::3, :D] *= 0.01
    coder.W_dec[1::3, D:] *= 0.01
    x_ND = torch.randn(N, 2 * D, generator=generator)
    x_ND[:, D:] *= 7
    return coder, x_ND


def by_hand(coder: Coder, x_ND: Tensor) -> dict[str, Tensor]:
    """The same from the definitions, latent by latent and densely."""
    x, f, d = x_ND.double(), coder.encode(x_ND).double(), coder.W_dec.double()
    rms = [x[:, :D].square().sum(1).mean().sqrt(), x[:, D:].square().sum(1).mean().sqrt()]
    y = [x[:, :D] / rms[0], x[:, D:] / rms[1]]
    rows = [d[:, :D] / rms[0], d[:, D:] / rms[1]]
    bias = [coder.b_dec[:D] / rms[0], coder.b_dec[D:] / rms[1]]
    nu: dict[str, list[Tensor]] = {"error": [], "reconstruction": []}
    delta = []
    for j in range(F):
        norms = [rows[s][j].norm() for s in (0, 1)]
        delta.append(((norms[1] - norms[0]) / max(norms) + 1) / 2)
        own = int(delta[-1] > 0.5)
        for name in nu:
            beta = []
            for s in (own, 1 - own):
                made = f @ rows[s]
                others = made - f[:, j, None] * rows[s][j]
                target = y[s] - bias[s] - others if name == "error" else made
                scaled = (f[:, j, None] * rows[own][j]).flatten()
                beta.append(scaled @ target.flatten() / scaled.square().sum())
            nu[name].append(beta[1] / beta[0])
    fvu = [
        (y[s] - bias[s] - f @ rows[s]).square().sum() / (y[s] - y[s].mean(0)).square().sum()
        for s in (0, 1)
    ]
    return {
        "delta_norm": torch.stack(delta),
        "nu_error": torch.stack(nu["error"]),
        "nu_reconstruction": torch.stack(nu["reconstruction"]),
        "site_fvu": torch.stack(fvu),
    }


def measured(world: World, latent: int) -> dict:
    coder, x_ND = made_up()
    mesh = make_mesh(world, latent, {})
    size = F // mesh.latent.size
    held = range(mesh.latent.index * size, (mesh.latent.index + 1) * size)
    part = Coder(coder.config, 2 * D, 2 * D, latents=held, pre_bias=False).eval()
    rows = slice(held.start, held.stop)
    sliced = coder.latent_tensors
    part.load_state_dict({n: t[rows] if n in sliced else t for n, t in coder.state_dict().items()})
    part = set_mesh(part.requires_grad_(False), mesh)
    measure = Sites(subject_of(part, mesh, site=PAIR, target=PAIR))
    for x_MD in x_ND.split(15)[mesh.data.index :: mesh.data.size]:
        x_N1D = x_MD[:, None]
        measure.update(run_coder(part, x_N1D, x_N1D, torch.ones(len(x_MD), 1, dtype=torch.bool)))
    figures = measure.result()
    return figures | {"by_latent": {n: t.tolist() for n, t in figures["by_latent"].items()}}


@pytest.mark.parametrize(("world", "latent"), [(1, 1), (4, 2)])
def test_two_sites_by_hand(world: int, latent: int) -> None:
    expected = {name: v.tolist() for name, v in by_hand(*made_up()).items()}
    delta = torch.tensor(expected["delta_norm"])
    alone_F = (delta < 0.1) | (delta > 0.9)
    for found in run_on(world, measured, latent):
        assert found["site_fvu"] == pytest.approx(expected["site_fvu"], rel=1e-4)
        assert found["first_alone"] == pytest.approx(float((delta < 0.1).double().mean()))
        assert found["second_alone"] == pytest.approx(float((delta > 0.9).double().mean()))
        assert sum(found["delta_norm"]["counts"]) == F
        for name in ("delta_norm", "nu_error", "nu_reconstruction"):
            assert found["by_latent"][name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        for name in ("nu_error", "nu_reconstruction"):
            mean = float(torch.tensor(expected[name])[alone_F].mean())
            assert found[name]["mean"] == pytest.approx(mean, rel=1e-4, abs=1e-5)


def copying_crosscoder(*costs: float) -> Coder:
    """Copies `resid_post.0` and `resid_post.1`, each times its number."""
    one = copying_coder()
    num = len(costs)
    config = config_of_kind(
        "jumprelu", form=Form.crosscoder, num_latents=num * 2 * WIDTH, num_sites=num
    )
    coder = Coder(config, num * WIDTH, num * WIDTH, pre_bias=False).eval().requires_grad_(False)
    blocks = {"W_enc": one.W_enc, "W_dec": one.W_dec}
    zeros = {name: torch.zeros_like(value) for name, value in coder.state_dict().items()}
    coder.load_state_dict(
        zeros | {name: torch.block_diag(*[block] * num) for name, block in blocks.items()}
    )
    coder.W_dec *= torch.tensor(costs).repeat_interleave(WIDTH)
    return coder


def test_each_site_is_spliced_alone() -> None:
    site = "resid_post.0+resid_post.1"
    ids_NS, trainable_NS = tiny_ids_NS(3), TRAINABLE_NS.bool()
    loss = LMLoss(subject_of(copying_crosscoder(1.0, 0.0), site=site, target=site, num_positions=7))
    zero = LMLoss(
        subject_of(copying_coder(), site="resid_post.1", target="resid_post.1", num_positions=7)
    )
    for measure in (loss, zero):
        measure.update(LMBatch(tiny_lm(), ids_NS, trainable_NS))
    found, alone_1 = loss.result(), zero.result()
    cost = alone_1["zero_ablation_loss"] - alone_1["clean_loss"]
    assert found["delta_loss_by_site"] == pytest.approx([0, cost], abs=1e-5)
    assert found["delta_loss"] == pytest.approx(cost / 2, abs=1e-5)
    assert found["clean_loss"] == pytest.approx(alone_1["clean_loss"])


def test_an_evaluation_takes_what_can_be_measured_of_crosscoders(tmp_path: Path) -> None:
    for name in ("base", "chat"):
        tiny_harvest(tmp_path / name)
    source = StoredActivations(
        AlignedStores(open_store(tmp_path / "base"), {"chat": open_store(tmp_path / "chat")})
    )
    site = {"layers": "resid_post.1+mlp_out.1", "models": "mlp_out.1+chat:mlp_out.1"}
    coder = copying_crosscoder(1.0, 1.0)
    for name in site:
        about = {"site": site[name], "target": site[name]}
        save_coder(tmp_path / "run" / "coders" / name, coder, coder.state_dict(), about)
    config = EvaluationConfig(max_sequences=4, lm_sequences=2, batch_tokens=16)
    candidates = finished(tmp_path / "run", torch.device("cpu"))
    (found,) = evaluate(candidates, source, tiny_lm, config, alone())
    layers, models = (found["rungs"][name] for name in site)
    assert layers["sites"] == ["resid_post.1", "mlp_out.1"]
    assert layers["fvu"] == pytest.approx(0, abs=1e-6)
    assert layers["delta_loss_by_site"] == pytest.approx([0, 0], abs=1e-4)
    assert "delta_loss" not in models and "uniformity" not in layers
    assert models["site_fvu"] == pytest.approx([0, 0], abs=1e-6)
    assert models["shared"] == 0.0 and models["first_alone"] == models["second_alone"] == 0.5
    norms_FL = load_file(tmp_path / "run" / models["by_latent"])["site_norms"]
    assert ((norms_FL > 0).sum(1) == 1).all()
