"""The tools read what they were handed, each by its own code, in an environment of theirs.

`make test-interop` makes that environment and names its Python in SAE_DIST_HANDOFF.
"""

import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from sae_dist.coders import Coder, Form
from sae_dist.handoff import handoff_named, unpack_features
from sae_dist.latents import Latents
from tests.handoff.made import LM, TEXTS, made_up, save_set, transcoder
from tests.handoff.test_files import batches_of
from tests.latents.made_up import VOCABULARY
from tests.lm.tiny import NUM_LAYERS, VOCAB, WIDTH, tiny_model
from tests.train.test_cross_layer import save as save_cross_layer
from tests.train.test_cross_layer import tiny_transcoder

PYTHON = os.environ.get("SAE_DIST_HANDOFF")
CLIENT = Path(__file__).with_name("tools.py")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="no tools: run `make test-interop`"),
]


def asked(tool: str, package: str, here: Path, **job) -> dict:
    """What a tool tells of a job."""
    path, out = here / "job.json", here / "out.json"
    path.write_text(json.dumps({**job, "package": package, "out": str(out)}))
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    quiet.pop("PYTHONPATH", None)
    command = [str(Path(PYTHON).absolute()), str(CLIENT), tool, str(path)]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(out.read_text())


def handed(to: str, run: Path, rungs: list[str]) -> Path:
    handoff_named(to).write(run / "out", run, rungs, TEXTS)
    return run / "out"


def test_delphi_loads_its_cache_and_its_scorers_run_on_it(tmp_path: Path) -> None:
    run = made_up(tmp_path / "r", {"wide": 40})
    folder = handed("delphi", run, ["wide"])
    found = asked(
        "delphi",
        "eai-delphi",
        tmp_path,
        raw_dir=str(folder / "latents"),
        module="wide",
        latents=list(range(6, 40)),  # of each there are windows without it
        vocabulary=VOCABULARY,
    )
    latents = Latents(run, "wide")
    assert found["config"]["cache_ctx_len"] == 64
    assert sorted(map(int, found["latents"])) == list(range(6, 40))
    for name, one in found["latents"].items():
        fired, peak = latents.row("fired", int(name)), latents.row("max", int(name))
        assert one["per_token_frequency"] == pytest.approx(fired / (40 * 64))
        assert one["max_activation"] == pytest.approx(float(peak), rel=1e-3)
        for told in one["scores"].values():
            assert all(activating == prediction for activating, prediction in told)
            assert {activating for activating, _ in told} == {False, True}


def test_saedashboards_classes_hold_what_they_are_given(tmp_path: Path) -> None:
    run = made_up(tmp_path / "r", {"wide": 140})
    folder = handed("saedashboard", run, ["wide"]) / "wide"
    found = asked("saedashboard", "sae-dashboard", tmp_path, folder=str(folder))
    assert [found[f"batch-{number}.json"] for number in range(2)] == batches_of(folder)


def write_lm(folder: Path) -> torch.nn.Module:
    """A tiny Llama as transformers 4 reads it, too, with a tokenizer of plain files."""
    lm = tiny_model("llama", head_dim=None)  # which TransformerLens does not read
    lm.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    words = {"<s>": 0, **{f"w{token}": token for token in range(1, VOCAB)}}
    Tokenizer(models.WordLevel(words, unk_token="<s>")).save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return lm


def mlp_inputs(lm: torch.nn.Module, ids: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What each layer's MLP is given, [S, D] each, and the logits."""
    found: list[torch.Tensor] = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda _, given: found.append(given[0][0]))
        for layer in lm.model.layers
    ]
    logits = lm(torch.tensor([ids])).logits
    for hook in hooks:
        hook.remove()
    return found, logits


def assert_same_latents(
    found: dict, theirs: dict, lm: torch.nn.Module, layers: list[Coder], prompt: list[int]
) -> None:
    """What fires on a prompt, in each layer, is what fires here."""
    inputs, logits = mlp_inputs(lm, prompt)
    torch.testing.assert_close(theirs["logits"], logits, rtol=1e-4, atol=1e-4)
    ours = torch.stack([coder.encode(x_SD) for coder, x_SD in zip(layers, inputs, strict=True)])
    ours[:, 0] = 0  # as it leaves out the first position
    torch.testing.assert_close(theirs["acts"], ours, rtol=1e-4, atol=1e-4)
    assert sorted(map(tuple, found["features"])) == [tuple(at) for at in ours.nonzero().tolist()]
    values = [float(ours[tuple(at)]) for at in found["features"]]
    assert np.allclose(found["values"], values, rtol=1e-4, atol=1e-4)


def test_circuit_tracer_attributes_with_a_cross_layer_transcoder(tmp_path: Path) -> None:
    lm, coder = write_lm(tmp_path / "lm"), tiny_transcoder()
    save_cross_layer(tmp_path / "r", coder, lm=str(tmp_path / "lm"))
    folder, graphs = handed("circuit_tracer", tmp_path / "r", ["clt"]), tmp_path / "graphs"
    graphs.mkdir()
    prompt, lm_folder = [0, 5, 17, 33, 4, 60], str(tmp_path / "lm")
    job = {"folder": str(folder), "graphs": str(graphs), "lm": lm_folder}
    job["backend"] = "transformerlens"
    found = asked("circuit_tracer", "circuit-tracer", tmp_path, **job, prompt=prompt)
    assert found["is_finite"] and found["edges"] > 100
    assert_same_latents(found, torch.load(graphs / "found.pt"), lm, list(coder.layers), prompt)


@pytest.mark.parametrize(
    ("kind", "form", "backend"),
    [
        ("jumprelu", Form.transcoder, "nnsight"),
        ("batchtopk", Form.skip_transcoder, "transformerlens"),
    ],
)
def test_circuit_tracer_loads_a_set_attributes_and_shows_it(
    kind: str, form: Form, backend: str, tmp_path: Path
) -> None:
    lm = write_lm(tmp_path / "lm")
    run = made_up(tmp_path / "r", {f"layer{n}": 48 for n in range(NUM_LAYERS)})
    coders = {f"layer{n}": transcoder(form, 48, WIDTH, n, kind) for n in range(NUM_LAYERS)}
    save_set(run, coders, lm={**LM, "name": str(tmp_path / "lm")})
    folder, graphs = handed("circuit_tracer", run, sorted(coders)), tmp_path / "graphs"
    graphs.mkdir()
    prompt = [0, 5, 17, 33, 4, 60]
    job = {
        "folder": str(folder),
        "graphs": str(graphs),
        "lm": str(tmp_path / "lm"),
        "backend": backend,
    }
    found = asked("circuit_tracer", "circuit-tracer", tmp_path, **job, prompt=prompt)
    assert found["is_finite"] and found["edges"] > 100

    assert_same_latents(found, torch.load(graphs / "found.pt"), lm, list(coders.values()), prompt)
    unpacked = unpack_features(folder, graphs / "tiny.json")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shown = asked("circuit_tracer", "circuit-tracer", tmp_path, **job, serve=port)["shown"]
    assert len(shown) > 5 and len(list(unpacked.iterdir())) > 5
    for node, one in shown.items():
        layer, latent, _ = node.split("_")
        latents = Latents(run, f"layer{layer}")
        assert (one["transcoder_id"], one["index"]) == (f"layer{layer}", int(latent))
        assert one["act_max"] == pytest.approx(float(latents.row("max", int(latent))), rel=1e-3)
