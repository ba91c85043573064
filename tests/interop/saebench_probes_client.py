"""SAEBench's probing evaluations on texts that are given, run by its own Python.

python saebench_probes_client.py PLAN    in the folder that holds all that PLAN, a JSON file, names

Its functions are called as they are; only where they would download texts, they get ours, as
tokens. Writes `probed.json`: by evaluation what it says with each seed.
"""

import json
import pickle
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.absorption import main as absorption
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing import main as sparse_probing
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import dataset_info, dataset_utils
from transformer_lens import HookedTransformer

from sae_dist.interop.saebench import load_for_saebench

DATA = "LabHC/bias_in_bios_class_set1"
Texts = dict[str, list[list[int]]]


def give(texts: dict[str, Texts]) -> None:
    """Have SAEBench find these tokens by class, to train and to test on."""

    def found(*given: Any, **named: Any) -> tuple[Texts, Texts]:
        return texts["train"], texts["test"]

    def tokens(data: Texts, *given: Any) -> dict[str, Any]:
        return {name: {"input_ids": torch.tensor(ids)} for name, ids in data.items()}

    dataset_info.chosen_classes_per_dataset[DATA] = list(texts["train"])
    dataset_utils.get_multi_label_train_test_data = found
    dataset_creation.get_train_test_data = found
    dataset_utils.tokenize_data_dictionary = tokens


def settings(plan: dict[str, Any], seed: int) -> dict[str, Any]:
    return {
        "model_name": plan["model"],
        "random_seed": seed,
        "dataset_names": [DATA],
        "llm_batch_size": 64,
        "llm_dtype": "float32",
    }


def coders(plan: dict[str, Any]) -> list[tuple[str, Any]]:
    hook = "blocks.0.hook_resid_post"
    return [("ours", load_for_saebench(plan["coder"], model_name=plan["model"], hook=hook))]


def probed(plan: dict[str, Any], which: str, seed: int) -> dict[str, Any]:
    """Accuracies of sparse probing."""
    give(plan[which])
    config = SparseProbingEvalConfig(**settings(plan, seed))
    folder, leave = f"{which}-{seed}", {"save_activations": False}
    (found,) = sparse_probing.run_eval(config, coders(plan), "cpu", folder, **leave).values()
    metrics: dict[str, Any] = found["eval_result_metrics"]
    return metrics


def ablated(plan: dict[str, Any], which: str, seed: int) -> dict[str, Any]:
    """Scores of SCR or TPP, and the probes that it fitted."""
    give(plan[which])
    pair = {DATA: [("professor", "nurse")]}
    is_scr, ns = which == "scr", plan["ablated"]
    config = ScrAndTppEvalConfig(
        **settings(plan, seed), perform_scr=is_scr, n_values=ns, column1_vals_lookup=pair
    )
    folder = f"{which}-{seed}"
    torch.set_grad_enabled(True)
    (found,) = scr_and_tpp.run_eval(
        config, coders(plan), "cpu", folder, artifacts_path=f"artifacts-{folder}"
    ).values()
    (path,) = Path(f"artifacts-{folder}").rglob("*_probes.pkl")
    probes = pickle.loads(path.read_bytes())["llm_probes"]
    weights = {name: [p.net.weight.tolist()[0], p.net.bias.tolist()] for name, p in probes.items()}
    return {"metrics": found["eval_result_metrics"][f"{which}_metrics"], "probes": weights}


def absorbed(plan: dict[str, Any], seed: int) -> dict[str, Any]:
    """Means over letters, with prompts and probes of this seed."""
    random.seed(seed)
    torch.manual_seed(seed)
    at = {"probes_dir": f"letters-{seed}", "experiment_dir": f"sparse-{seed}"}
    of = at | {"experiment_dir": f"full-{seed}", "sparse_probing_experiment_dir": f"sparse-{seed}"}
    absorption.run_k_sparse_probing_experiment = partial(k_sparse, **at)
    absorption.run_feature_absortion_experiment = partial(full, **of)
    config = AbsorptionEvalConfig(
        model_name=plan["model"], llm_batch_size=64, precalc_k_sparse_probe_sae_acts=True
    )
    Path(f"absorption-{seed}").mkdir()  # unlike the others it does not make it
    (found,) = absorption.run_eval(config, coders(plan), "cpu", f"absorption-{seed}").values()
    mean: dict[str, Any] = found["eval_result_metrics"]["mean"]
    return mean | {"letters": len(found["eval_result_details"])}


def words(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Word by word, of a probe and main latents that are given."""
    random.seed(0)
    model = HookedTransformer.from_pretrained_no_processing(plan["model"], device="cpu")
    calculator = FeatureAbsorptionCalculator(
        model=model,
        icl_word_list=plan["words"],
        max_icl_examples=10,
        base_template="{word} has the first letter:",
        word_token_pos=-6,
    )
    ((_, coder),) = coders(plan)
    found = calculator.calculate_absorption(
        coder, plan["words"], torch.tensor(plan["probe"]), plan["main"], 0, show_progress=False
    )
    return [
        {
            "word": own.word,
            "prompt": own.prompt,
            "fraction": float(own.absorption_fraction),
            "full": own.is_full_absorption,
        }
        for own in found.word_results
    ]


k_sparse = absorption.run_k_sparse_probing_experiment
full = absorption.run_feature_absortion_experiment


def main(path: Path) -> None:
    plan = json.loads(path.read_text())
    seeds = range(plan["seeds"])
    found = {
        "two": [probed(plan, "two", 0)],
        "four": [probed(plan, "four", seed) for seed in seeds],
        "scr": [ablated(plan, "scr", 0)],
        "tpp": [ablated(plan, "tpp", seed) for seed in seeds],
        "absorption": [absorbed(plan, seed) for seed in range(plan["letters_seeds"])],
        "words": words(plan),
    }
    Path("probed.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
