"""The guide on circuits, as it stands, on a tiny language model: its graph, picture and losses."""

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sae_dist.coders import Form
from sae_dist.handoff import handoff_named
from sae_dist.lm.packages import _name_as_transformers_4
from tests.apps.commands import ROOT
from tests.docs.test_snippets import snippets
from tests.handoff.made import TEXTS, made_up, save_set, transcoder
from tests.handoff.test_tools import PYTHON
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import NUM_LAYERS, VOCAB, WIDTH, tiny_model

GUIDE = ROOT / "docs" / "guides" / "circuits.md"
LM, RUN = Path(".cache/sae_dist/lms/b179c9523d0e6a0f"), Path("runs/circuit")


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="no tools: run `make test-interop`")
def test_the_guide_s_graph_is_made_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny_model("llama", head_dim=None).save_pretrained(LM)
    tokenizer().save_pretrained(LM)
    _name_as_transformers_4(LM)
    made_up(RUN, {f"layer{n}": 48 for n in range(NUM_LAYERS)})
    tokens = np.load(RUN / "latents" / "tokens.npy")
    np.save(RUN / "latents" / "tokens.npy", tokens % VOCAB)
    coders = {
        f"layer{n}": transcoder(Form.skip_transcoder, 48, WIDTH, n, "batchtopk")
        for n in range(NUM_LAYERS)
    }
    save_set(RUN, coders)
    handoff_named("circuit_tracer").write(RUN / "exports/circuit_tracer", RUN, [*coders], TEXTS)
    theirs, ours = snippets(GUIDE).split("from sae_dist.handoff", 1)
    (tmp_path / "theirs.py").write_text(theirs)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quiet.pop("PYTHONPATH", None)
    command = [str(ROOT / PYTHON), "theirs.py"]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    replacement, completeness = map(float, done.stdout.strip(" ()\n").split(", "))
    assert 0 < replacement <= completeness < 1
    exec(compile(f"from sae_dist.handoff{ours}", GUIDE, "exec"), {})
    assert len(capsys.readouterr().out.split("tensor(")) == 3
    drawn = ElementTree.parse(RUN / "graphs" / "berlin.svg").getroot()
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("latent ") for title in titles)
