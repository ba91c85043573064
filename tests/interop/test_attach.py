"""Steering by an exported coder in TransformerLens and nnsight, as the guide has it, and ours."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

import sae_dist
from sae_dist.interop import format_named
from tests.apps.commands import ROOT
from tests.attach.test_attach import a_coder, a_language_model
from tests.docs.test_snippets import snippets
from tests.interop.measure import python

GUIDE = ROOT / "docs" / "guides" / "in_other_tools.md"
NOTEBOOK = ROOT / "notebooks" / "latents.ipynb"
SITE, LATENT = "resid_post.2", 3
RUN = Path("runs/quickstart_scratch")
_SAVED = '\ntorch.save([ids, cache[hook], acts, lens_logits, sight_logits], "found.pt")\n'


def test_the_notebook_shows_the_same() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    (cell,) = (cell for cell in cells if cell["id"] == "elsewhere")
    shown = "".join(cell["source"]).partition("```python\n")[2].partition("```")[0]
    assert shown.split() == snippets(GUIDE).split()


@pytest.mark.slow
@pytest.mark.skipif(python() is None, reason="no clients: run `make test-interop`")
def test_other_tools_steer_as_we_do(tmp_path: Path) -> None:
    lm, coder = a_language_model(), a_coder()
    lm.model.save_pretrained(tmp_path / RUN / "lm")
    lm.tokenizer.save_pretrained(tmp_path / RUN / "lm")
    folder = tmp_path / RUN / "exports" / "saelens" / f"topk-1024-k8-{SITE}"
    format_named("saelens").write(folder, coder, {"site": SITE, "target": SITE})
    (tmp_path / "shown.py").write_text(snippets(GUIDE) + _SAVED)
    subprocess.run([str(python()), "shown.py"], cwd=tmp_path, check=True, timeout=900)
    ids_NS, lens, sight, lens_NSV, sight_NSV = torch.load(tmp_path / "found.pt")
    with sae_dist.attach(lm, {SITE: folder}) as run:
        found = run(ids_NS, run.steer(SITE, LATENT, add=4.0))
        clean = run(ids_NS)
    expected = found.latents[SITE].dense()[:, 1:]
    for acts in (lens[:, 1:], sight):
        torch.testing.assert_close(acts, expected, atol=1e-4, rtol=1e-4)
    for logits_NSV in (lens_NSV, sight_NSV):
        torch.testing.assert_close(logits_NSV, found.logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.logits, clean.logits, atol=1e-2)
