"""`sae-dist export to=TOOL`, from a run's folder to the tool's files."""

import json
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sae_dist.apps import checks
from sae_dist.apps.export import export
from sae_dist.coders import Form
from sae_dist.common.errors import UserError
from sae_dist.config import ExportConfig
from sae_dist.handoff import handoff_names
from tests.handoff.made import LM, save_set, transcoder
from tests.latents.made_up import write_made_up

HERE = {**LM, "name": "lm"}
NUM_WORDS = 100  # the language model has more logits


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two transcoders and latents of a third, and its language model's tokenizer."""
    monkeypatch.chdir(tmp_path)
    words = {f"w{token}": token for token in range(NUM_WORDS)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)))
    made.save_pretrained("lm")
    folder = Path("runs/r")
    save_set(folder, {name: transcoder(Form.transcoder, 8, 16) for name in "ab"}, lm=HERE)
    write_made_up(folder, {"wide": 12}, lm=HERE, num_sequences=4)
    return folder


@pytest.mark.parametrize("to", ["saedashboard", "neuronpedia", "delphi"])
def test_latents_go_from_the_runs_folder_to_the_tools_files(to: str, run: Path) -> None:
    folder = export(ExportConfig(run="r", to=to))
    assert folder == run / "exports" / to
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert (
        files
        == {
            "saedashboard": {"wide/batch-0.json", "wide/skipped_indexes.json"},
            "neuronpedia": {
                *(
                    f"lm/1-r__wide/{name}.jsonl"
                    for name in ("release", "model", "sourceset", "source")
                ),
                *(
                    f"lm/1-r__wide/{part}/batch-0.jsonl.gz"
                    for part in ("features", "activations", "explanations")
                ),
            },
            "delphi": {
                *(f"latents/wide/{name}" for name in ("0_5.safetensors", "6_11.safetensors")),
                *("latents/wide/config.json", "log/hookpoint_firing_counts.pt"),
            },
        }[to]
    )


def test_tokens_read_as_the_tokenizer_says_and_what_it_has_not_is_told(run: Path) -> None:
    folder = export(ExportConfig(run="r", to="saedashboard", folder="elsewhere"))
    one = json.loads((folder / "wide/batch-0.json").read_text())["features"][9]
    known = [f"w{token}" for token in range(9, NUM_WORDS, 13)]
    assert one["pos_str"] == known + ["<|outofrange|>"] * (10 - len(known))


def test_a_set_of_coders_needs_no_latents_of_them(run: Path) -> None:
    folder = export(ExportConfig(run="r", to="circuit_tracer"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["model_name"] == "lm"
    assert not (folder / "features").exists()
    write_made_up(run, {"a": 8, "b": 8}, lm=HERE, num_sequences=4)
    export(ExportConfig(run="r", to="circuit_tracer"))
    assert len(list((folder / "features").iterdir())) == 3
    export(ExportConfig(run="r", to="circuit_tracer", rungs=["a"]))
    assert sorted(path.name for path in (folder / "features").iterdir()) == [
        "index.json.gz",
        "layer_0.bin",
    ]


def test_without_coders_there_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.yaml").write_text("store: s\n")
    with pytest.raises(UserError, match="^no coders in .*; expected a finished run"):
        checks.check(ExportConfig(run="r", runs=str(tmp_path), to="circuit_tracer"))


@pytest.mark.parametrize("to", sorted(set(handoff_names()) - {"circuit_tracer"}))
def test_without_latents_the_command_that_makes_them_is_named(to: str, tmp_path: Path) -> None:
    save_set(tmp_path / "r", {"a": transcoder(Form.transcoder, 8, 16)})
    config = ExportConfig(run="r", runs=str(tmp_path), to=to)
    with pytest.raises(UserError, match="^found no latents in .*; sae-dist latents run=r makes"):
        checks.check(config)  # before anything slow is imported


def test_a_folder_of_something_else_is_left_alone(run: Path) -> None:
    save_set(run, {"wide": transcoder(Form.transcoder, 8, 16)}, lm=HERE)
    for _ in range(2):  # what was written before is replaced
        export(ExportConfig(run="r", to="saedashboard"))
    with pytest.raises(UserError, match="^found runs/r/coders/wide, .* choose another with folder"):
        export(ExportConfig(run="r", to="saedashboard", folder="runs/r/coders"))
    assert (run / "coders/wide/coder.json").is_file()


def test_what_cannot_be_shown_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="^push=me/it with to=delphi; .* leave push out"):
        export(ExportConfig(run="r", to="delphi", push="me/it"))
    with pytest.raises(UserError, match="^rungs=narrow; expected rungs of runs/r: wide"):
        export(ExportConfig(run="r", to="delphi", rungs=["narrow"]))
    write_made_up(run, {"wide": 12}, lm=None, num_sequences=4)
    with pytest.raises(UserError, match="^found no language model .*; to=delphi needs none$"):
        export(ExportConfig(run="r", to="neuronpedia"))
    export(ExportConfig(run="r", to="delphi"))
