from pathlib import Path

import torch
from torch import Tensor

from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.lm import LM, LMConfig, load_lm, load_sliced_lm
from sae_dist.parallel import Axis, World, make_mesh
from tests.lm.test_load import save
from tests.lm.tiny import tiny_ids_NS
from tests.processes import run_on

PLACES = [("resid_post.0", "resid_post.0"), ("mlp_in.1", "mlp_out.1"), ("attn_z.1", "attn_z.1")]


def passed(lm: LM, team: Axis | None = None) -> dict[str, Tensor]:
    """What a language model says with something else, or nothing, at some places."""
    ids_NS = tiny_ids_NS(3)
    seen = LMBatch(lm, ids_NS, torch.ones_like(ids_NS, dtype=torch.bool), team=team)
    found = {"clean": seen.clean_S}
    for read, write in PLACES:
        half = seen.spliced(read, write, lambda x, y: y / 2 + x.mean(-1, keepdim=True))
        x_MD, grad_ME = seen.gradients(read, write, 2)
        found |= {f"{write} loss": half.loss_S, f"{write} kl": half.kl, f"{write} x": x_MD}
        found |= {f"{write} zero": seen.zero(write).loss_S, f"{write} gradient": grad_ME}
    return {name: value.clone() for name, value in found.items()}


def passed_sliced(world: World, folder: Path) -> dict[str, Tensor]:
    lm = load_sliced_lm(LMConfig(name=str(folder), tensor=world.size))
    return passed(lm, make_mesh(world, world.size, {}).latent)


def test_a_sliced_language_model_is_measured_as_the_whole_one(tmp_path: Path) -> None:
    save(tmp_path / "llama", "llama")
    expected = passed(load_lm(LMConfig(name=str(tmp_path / "llama"))))
    for found in run_on(2, passed_sliced, tmp_path / "llama"):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
