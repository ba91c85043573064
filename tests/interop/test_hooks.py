"""The hooks that SAELens' files name, in TransformerLens itself, beside what we harvest there."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder, Form
from sae_dist.interop import format_named
from sae_dist.lm import Capture, LMConfig, load_lm, resolve
from tests.coders.kinds import config_of_kind
from tests.harvest.tiny import tokenizer
from tests.interop.measure import python
from tests.lm.tiny import tiny_ids_NS, tiny_model

SITES = ["embed", "resid_pre.1", "resid_post.1", "mlp_in.1", "mlp_out.1", "attn_z.1"]


def export(folder: Path, site: str, width: int, lm: LMConfig) -> str:
    """Write a coder of a site for SAELens; the hook that its settings name."""
    config = config_of_kind("topk", form=Form.autoencoder, num_latents=8, k=2)
    coder = Coder(config, width, width)
    about = {"site": site, "target": site, "source": {"lm": asdict(lm)}}
    format_named("saelens").write(folder, coder.eval(), about)
    return json.loads((folder / "cfg.json").read_text())["metadata"]["hook_name"]


@pytest.mark.parametrize(("folds", "hook"), [(False, "mlp.hook_in"), (True, "ln2.hook_normalized")])
def test_behind_the_norms_gain_there_is_another_hook(
    folds: bool, hook: str, tmp_path: Path
) -> None:
    lm = LMConfig(name="some/lm", fold_norms=folds)
    assert export(tmp_path, "mlp_in.3", 16, lm) == f"blocks.3.{hook}"
    assert export(tmp_path, "mlp_out.3", 16, lm) == "blocks.3.hook_mlp_out"


def job(folder: Path, family: str, folds: bool) -> tuple[dict[str, object], dict[str, Tensor]]:
    """What the client is asked of a language model, and what we harvest there."""
    tiny_model(family).save_pretrained(folder / "lm")
    tokenizer().save_pretrained(folder / "lm")
    np.save(folder / "ids.npy", tiny_ids_NS().numpy())
    config = LMConfig(name=str(folder / "lm"), attn_implementation="eager", fold_norms=folds)
    lm = load_lm(config, torch.device("cpu"))
    acts = Capture(lm.model, [resolve(lm.model, site) for site in SITES])(tiny_ids_NS())
    for site, acts_NSD in acts.items():
        export(folder / site, site, acts_NSD.shape[-1], lm.config)
    places = {"model": "lm", "ids": "ids.npy", "out": "found.npz"}
    asked: dict[str, object] = {key: str(folder / place) for key, place in places.items()}
    return asked | {"coders": {site: str(folder / site) for site in acts}}, acts


@pytest.mark.slow
@pytest.mark.skipif(python() is None, reason="no clients: run `make test-interop`")
def test_the_hook_of_every_site_has_its_activations(tmp_path: Path) -> None:
    asked, expected = [], {}
    for family, folds in (("llama", False), ("llama", True), ("gemma2", False), ("gpt2", False)):
        folder = tmp_path / f"{family}-{folds}"
        asked_of, expected[folder] = job(folder, family, folds)
        asked.append(asked_of)
    (tmp_path / "plan.json").write_text(json.dumps(asked))
    client = Path(__file__).with_name("hooks_client.py")
    subprocess.run([str(python()), str(client), "plan.json"], cwd=tmp_path, check=True, timeout=900)
    for folder, acts in expected.items():
        found = np.load(folder / "found.npz")
        assert sorted(found) == sorted(SITES)
        for site, acts_NSD in acts.items():
            far = np.abs(found[site] - acts_NSD.numpy()).max() / acts_NSD.abs().max()
            assert far < 1e-4, (folder.name, site)
