"""What each tool is handed, field by field; test_tools.py asks the tools themselves."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from sae_dist.coders import Form
from sae_dist.common.errors import UserError
from sae_dist.handoff import handoff_named
from sae_dist.handoff.neuronpedia import CREATOR
from sae_dist.latents import Explanation, Latents, write_explanation
from tests.handoff.made import LM, TEXTS, made_up, save_set, transcoder

WIDE = 140  # two batches; on 4 sequences some of its latents never fire
DASHBOARD = {
    *("feature_index", "frac_nonzero", "n_prompts_total", "n_tokens_in_prompt", "dataset"),
    *(f"neuron_alignment_{one}" for one in ("indices", "values", "l1")),
    *(f"correlated_neurons_{one}" for one in ("indices", "l1", "pearson")),
    *(f"correlated_features_{one}" for one in ("indices", "l1", "pearson")),
    *("neg_str", "neg_values", "pos_str", "pos_values", "activations"),
    *(f"{one}_hist_data_bar_{two}" for one in ("freq", "logits") for two in ("values", "heights")),
    *("decoder_weights_dist", "vector"),
}
WINDOW = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}
FEATURE = {
    *("modelId", "layer", "index", "creatorId", "createdAt", "maxActApprox", "hasVector", "vector"),
    *("vectorLabel", "vectorDefaultSteerStrength", "hookName", "sourceSetName"),
    *("topkCosSimIndices", "topkCosSimValues"),
    *DASHBOARD - {"feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset"},
} - {"activations"}
ACTIVATION = {
    *("id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue"),
    *("values", "creatorId", "dataSource", "dataIndex", "dfaValues", "dfaTargetIndex"),
    *("dfaMaxValue", "createdAt", "lossValues", "logitContributions"),
    *("binMin", "binMax", "binContains", "qualifyingTokenIndex"),
}
EXPLANATION = {
    *("id", "modelId", "layer", "index", "description", "authorId", "typeName", "notes"),
    *("explanationModelName", "createdAt", "updatedAt"),
}


def fires(ids: np.ndarray, latent: int) -> np.ndarray:
    """The activations that `tests.latents.made_up` says."""
    is_there = (ids % (latent + 2) == 0) & (ids > 2)
    return np.where(is_there, (ids * 7 + latent) % 50 / 5 + 0.1, 0).astype(np.float32)


def written(to: str, run: Path, rungs: list[str], texts: list[bytes] | None = TEXTS) -> Path:
    handoff = handoff_named(to)
    handoff.check(run, rungs)
    handoff.write(run / "out", run, rungs, texts)
    return run / "out"


def test_delphis_cache_is_every_activation(tmp_path: Path) -> None:
    run = made_up(tmp_path / "r")
    folder = written("delphi", run, ["narrow", "wide"], None)
    counts = torch.load(folder / "log/hookpoint_firing_counts.pt")
    for rung, width in (("wide", 12), ("narrow", 6)):
        files = sorted((folder / "latents" / rung).glob("*.safetensors"))
        assert [file.stem for file in files] == [f"0_{width // 2 - 1}", f"{width // 2}_{width - 1}"]
        ids = np.load(run / "latents/tokens.npy")
        found = np.zeros((*ids.shape, width), np.float16)
        for file in files:
            tensors = load_file(file)
            assert np.array_equal(tensors["tokens"], ids)
            assert tensors["locations"].dtype == np.uint16
            assert tensors["activations"].dtype == np.float16
            sequence, position, latent = tensors["locations"].astype(int).T
            assert (np.diff((latent * 40 + sequence) * 64 + position) > 0).all()
            found[sequence, position, latent + int(file.stem.split("_")[0])] = tensors[
                "activations"
            ]
        expected = np.stack([fires(ids, latent) for latent in range(width)], -1)
        assert np.array_equal(found, expected.astype(np.float16))
        assert np.array_equal(counts[rung], (expected > 0).sum((0, 1)))
    assert json.loads((folder / "latents/wide/config.json").read_text()) == {
        "model_name": "some/Tiny-LM.1",
        **dict.fromkeys(("dataset_repo", "dataset_split", "dataset_name", "dataset_column"), ""),
        "batch_size": 1,
        "cache_ctx_len": 64,
        "n_tokens": 40 * 64,
        "n_splits": 2,
    }


def test_delphi_gets_what_halves_cannot_hold_in_32_bits_and_nothing_too_small(
    tmp_path: Path,
) -> None:
    run = made_up(tmp_path / "r", {"wide": 12})
    file = next((run / "latents/wide/fired").glob("*"))
    tensors = load_file(file)
    tensors["values"][:2] = 70_000, 1e-6
    save_file(tensors, file)
    start, stop = (int(number) for number in file.stem.split("-"))
    found = load_file(
        written("delphi", run, ["wide"]) / f"latents/wide/{start}_{stop - 1}.safetensors"
    )
    assert found["activations"].dtype == np.float32 and found["activations"][0] == 70_000
    assert len(found["activations"]) == len(found["locations"]) == len(tensors["values"]) - 1


def batches_of(folder: Path) -> list[dict]:
    files = sorted(folder.glob("batch-*.json"), key=lambda file: int(file.stem.split("-")[1]))
    return [json.loads(file.read_text()) for file in files]


def test_saedashboards_features(tmp_path: Path) -> None:
    run = made_up(tmp_path / "r", {"wide": WIDE}, num_sequences=4)
    folder = written("saedashboard", run, ["wide"]) / "wide"
    batches = batches_of(folder)
    features = [one for batch in batches for one in batch["features"]]
    about = {"model_id": "some/Tiny-LM.1", "layer": 1, "sae_set": "r"}
    for batch in batches:
        rest = {key: value for key, value in batch.items() if key != "features"}
        assert rest == {**about, "sae_id_suffix": "wide"} and len(batch["features"]) <= 128
    skipped = json.loads((folder / "skipped_indexes.json").read_text())
    numbers = [one["feature_index"] for one in features]
    dead = (Latents(run, "wide").column("fired") == 0).nonzero()[0].tolist()
    assert dead and skipped == {
        **about,
        "layer": "1",
        "log_sparsity": None,
        "skipped_indexes": dead,
    }
    assert sorted(numbers + dead) == list(range(WIDE))
    for one in features:
        assert set(one) == DASHBOARD
        assert all(set(window) == WINDOW for window in one["activations"])

    ids, latents = np.load(run / "latents/tokens.npy"), Latents(run, "wide")
    one, acts = features[2], fires(ids, 2)
    trained = int((ids > 2).sum())
    assert one["frac_nonzero"] == (acts > 0).sum() / trained
    assert (one["n_prompts_total"], one["n_tokens_in_prompt"]) == (4, 64)
    assert one["pos_str"] == [f" w{(10 * 0 + 13 * i + 2) % 500}" for i in range(10)]
    assert one["neg_str"] == one["pos_str"][::-1] and one["pos_values"][0] == 2.0
    assert sum(one["freq_hist_data_bar_heights"]) == (acts > 0).sum()
    assert one["freq_hist_data_bar_values"][-1] == pytest.approx(acts.max() * 39.5 / 40, rel=1e-3)
    assert one["logits_hist_data_bar_values"][0] == -1.95

    examples = latents.examples(2)
    assert len(examples) == len(one["activations"]) >= 8
    for example, window in zip(examples, one["activations"], strict=True):
        own = ids[example.sequence, example.start : example.start + 24]
        assert window["tokens"] == [TEXTS[token].decode(errors="replace") for token in own]
        assert np.allclose(window["values"], fires(own, 2), rtol=1e-3)
        assert window["values"][window["qualifying_token_index"]] > 0
    assert one["activations"][0]["bin_min"] == one["activations"][0]["bin_contains"] == -1
    assert one["activations"][0]["bin_max"] == pytest.approx(acts.max(), rel=1e-3)
    last = one["activations"][-1]
    low, high = (np.float32(last[key]) for key in ("bin_min", "bin_max"))
    inside = (acts >= low - 1e-3) & (acts <= high + 1e-3)
    assert last["bin_contains"] == pytest.approx(inside.sum() / trained, rel=1e-3)

    n1, n2 = (int(n) for n in latents.column("fired")[[2, one["correlated_features_indices"][0]]])
    phi, cosine = (one[f"correlated_features_{key}"][0] for key in ("pearson", "l1"))
    both = cosine * np.sqrt(n1 * n2)  # of a 2 × 2 table with these margins φ follows
    spread = np.sqrt(n1 * (trained - n1) * n2 * (trained - n2))
    assert phi == pytest.approx((both * trained - n1 * n2) / spread, rel=1e-2)


def lines_of(path: Path) -> list[dict]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


def test_neuronpedias_folder(tmp_path: Path) -> None:
    run = made_up(tmp_path / "r", {"wide": WIDE}, num_sequences=4)
    said = Explanation(
        latent=3,
        text="multiples of five",
        explainer="oracle",
        judge="oracle",
        scores={"detection": 0.75, "fuzzing": None},
        of={},
    )
    write_explanation(run, "wide", said)
    folder = written("neuronpedia", run, ["wide"]) / "tiny-lm-1/1-r__wide"
    release, model, sourceset, source = (
        lines_of(folder / f"{name}.jsonl")[0]
        for name in ("release", "model", "sourceset", "source")
    )
    assert release["name"] == sourceset["releaseName"] == "r" == sourceset["name"]
    assert model["id"] == sourceset["modelId"] == source["modelId"] == "tiny-lm-1"
    assert (source["id"], source["setName"]) == ("1-r__wide", "r")
    assert (source["num_prompts"], source["num_tokens_in_prompt"]) == (4, 64)
    of = {"modelId": "tiny-lm-1", "layer": "1-r__wide"}

    features = [row for n in range(2) for row in lines_of(folder / f"features/batch-{n}.jsonl.gz")]
    assert [row["index"] for row in features] == [str(latent) for latent in range(WIDE)]
    dashboard = written("saedashboard", run, ["wide"]) / "wide"
    theirs = {
        one["feature_index"]: one for batch in batches_of(dashboard) for one in batch["features"]
    }
    for row in features:
        assert set(row) == FEATURE and row.items() >= of.items()
    assert len(theirs) < WIDE == len(features)  # a latent that never fires has its page, too
    row, latents = features[3], Latents(run, "wide")
    assert all(row[key] == theirs[3][key] for key in DASHBOARD & FEATURE)
    assert row["hookName"] == "blocks.1.hook_resid_post" and row["creatorId"] == CREATOR
    assert row["maxActApprox"] == pytest.approx(float(latents.row("max", 3)), rel=1e-3)
    assert row["topkCosSimIndices"] == latents.row("nearest", 3).tolist()

    windows = lines_of(folder / "activations/batch-0.jsonl.gz")
    assert all(set(one) == ACTIVATION and one.items() >= of.items() for one in windows)
    assert len({one["id"] for one in windows}) == len(windows) and len(windows[0]["id"]) == 25
    own = [one for one in windows if one["index"] == "3"]
    for window, expected in zip(own, theirs[3]["activations"], strict=True):
        assert window["tokens"] == expected["tokens"] and window["values"] == expected["values"]
        assert (
            window["maxValue"]
            == max(window["values"])
            == window["values"][window["maxValueTokenIndex"]]
        )
        assert window["binMin"] == expected["bin_min"]
    ids = [one["id"] for one in windows]
    written("neuronpedia", run, ["wide"])  # of which the first one's rows are not added again
    assert [one["id"] for one in lines_of(folder / "activations/batch-0.jsonl.gz")] == ids

    (explained,) = lines_of(folder / "explanations/batch-0.jsonl.gz")
    assert set(explained) == EXPLANATION and explained.items() >= of.items()
    assert (explained["index"], explained["description"]) == ("3", "multiples of five")
    assert explained["notes"] == "by oracle, judged by oracle: detection 0.75"


def packed_features(folder: Path, layer: int) -> list[dict]:
    index = json.loads(gzip.decompress((folder / "features/index.json.gz").read_bytes()))
    own = index[str(layer)]
    data = (folder / "features" / own["filename"]).read_bytes()
    found = []
    for start, stop in zip(own["offsets"], own["offsets"][1:], strict=False):
        assert int.from_bytes(data[start : start + 4], "little") == stop - start - 4
        found.append(json.loads(zlib.decompress(data[start + 4 : stop])))
    return found


def test_circuit_tracers_set_and_features(tmp_path: Path) -> None:
    run = made_up(tmp_path / "r", {"a": 8, "b": 8})
    coders = {name: transcoder(Form.skip_transcoder, 8, 16, seed) for seed, name in enumerate("ab")}
    save_set(run, coders)
    folder = written("circuit_tracer", run, ["a", "b"])
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {
        "model_name": "some/Tiny-LM.1",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "r",
    }
    for layer, coder in enumerate(coders.values()):
        found = load_file(folder / f"layer_{layer}.safetensors")
        ours = {name: tensor.numpy() for name, tensor in coder.state_dict().items()}
        ours["activation_function.threshold"] = ours.pop("threshold")
        assert found.keys() == ours.keys() and "W_skip" in found
        assert all(np.array_equal(found[name], ours[name]) for name in ours)
        features = packed_features(folder, layer)
        assert [one["index"] for one in features] == list(range(8))
        one, latents = features[5], Latents(run, "ab"[layer])
        first = latents.examples(5)[0]
        assert one["examples_quantiles"][0]["quantile_name"] == "Top activations"
        example = one["examples_quantiles"][0]["examples"][0]
        assert len(example["tokens"]) == len(example["tokens_acts_list"]) == 24
        assert example["train_token_ind"] == first.position - first.start
        assert np.allclose(example["tokens_acts_list"], first.values, rtol=1e-3)
        assert one["act_max"] == pytest.approx(float(latents.row("max", 5)), rel=1e-3)
        assert one["activation_frequency"] == latents.frequency_F[5]
        assert len(one["quantile_values"]) == len(one["histogram"]) + 1
    assert packed_features(folder, 0)[7]["top_logits"][0] == "\\xe2\\x80"  # which its viewer joins


def test_a_set_of_fewer_layers_takes_the_place_of_a_longer_one(tmp_path: Path) -> None:
    run = tmp_path / "r"
    coders = {name: transcoder(Form.transcoder, 8, 16) for name in "abc"}
    save_set(run, coders, lm={**LM, "fold_norms": True})
    written("circuit_tracer", run, ["a", "b", "c"], None)
    folder = written("circuit_tracer", run, ["a", "b"], None)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.yaml",
        "layer_0.safetensors",
        "layer_1.safetensors",
    ]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["feature_input_hook"] == "ln2.hook_normalized"  # the same, where gains are folded


@pytest.mark.parametrize(
    ("coders", "layers", "told"),
    [
        ({"a": ("transcoder", 8, "topk")}, {"a": 0}, "^a: circuit-tracer takes thresholds or ReLU"),
        ({"a": ("autoencoder", 8, "jumprelu")}, {"a": 0}, "^a: .* not autoencoders"),
        (
            {"a": ("transcoder", 8, "jumprelu"), "b": ("transcoder", 8, "jumprelu")},
            {"a": 0, "b": 2},
            "^found no transcoder of layer 1, but of 2",
        ),
        (
            {"a": ("transcoder", 8, "jumprelu"), "b": ("transcoder", 8, "batchtopk")},
            {"a": 0, "b": 0},
            "^found a and b at one layer",
        ),
        (
            {"a": ("transcoder", 8, "jumprelu"), "b": ("transcoder", 4, "jumprelu")},
            {"a": 0, "b": 1},
            "expected all layers of one width and one form",
        ),
    ],
)
def test_what_is_no_set_is_refused(coders, layers, told: str, tmp_path: Path) -> None:
    made = {
        n: transcoder(Form(form), width, 16, kind=kind) for n, (form, width, kind) in coders.items()
    }
    save_set(tmp_path / "r", made, layers)
    with pytest.raises(UserError, match=told):
        handoff_named("circuit_tracer").check(tmp_path / "r", sorted(made))
