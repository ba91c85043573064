"""What SAEBench makes of coders: run by its own Python, which has sae_dist without its packages.

python saebench_client.py PLAN    in the folder that holds all that PLAN, a JSON file, names

Writes `core/`, `probing/` and `meta/` as SAEBench does, and `measured.json`: what it says of them.
No line of SAEBench is changed; a coder that it cannot measure is missing from `core/`.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.core.main import multiple_evals
from sae_bench.evals.meta_structure import main as meta_structure
from sae_bench.evals.meta_structure.eval_config import MetaStructureEvalConfig
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing.main import run_eval
from sae_lens import SAE

from sae_dist.interop.saebench import SAEBenchCoder, load_for_saebench


def loaded(plan: dict[str, Any], which: str) -> list[tuple[str, SAEBenchCoder]]:
    """Coders by name, read again for each evaluation."""
    return [(name, load_for_saebench(f"{plan['coders']}/{name}")) for name in plan[which]]


def of_saelens(plan: dict[str, Any]) -> list[tuple[str, SAE]]:
    """The same as SAELens loads them: what SAEBench was made for."""
    found = [(f"saelens-{name}", SAE.load_from_disk(path)) for name, path in plan["lens"].items()]
    for _, sae in found:
        sae.cfg.metadata.model_name = plan["model"]
    return found


def core(plan: dict[str, Any]) -> None:
    """All of the core evaluation, on tokens that are given."""
    multiple_evals(
        [*loaded(plan, "core"), *of_saelens(plan)],
        n_eval_reconstruction_batches=plan["batches"],
        n_eval_sparsity_variance_batches=plan["batches"],
        eval_batch_size_prompts=plan["batch"],
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=plan["tokens"],
        context_size=plan["context"],
        output_folder="core",
        device="cpu",
    )


def probing(plan: dict[str, Any]) -> dict[str, Any]:
    """Each coder's accuracies by SAEBench's names."""
    config = SparseProbingEvalConfig(
        model_name=plan["model"],
        dataset_names=[plan["classes"]],
        context_length=plan["context"],
        llm_batch_size=plan["batch"],
        llm_dtype="float32",
        **plan["probing_sizes"],
    )
    coders = [*loaded(plan, "probing"), *of_saelens(plan)]
    found = run_eval(config, coders, "cpu", "probing", clean_up_activations=True)
    return {
        name.removesuffix("_custom_sae"): result["eval_result_metrics"]
        for name, result in found.items()
    }


def meta(plan: dict[str, Any]) -> dict[str, float]:
    """The share of each decoder's variance that a meta-SAE of SAEBench's explains."""
    torch.manual_seed(0)
    config = MetaStructureEvalConfig(**plan["meta_steps"])
    found = meta_structure.run_eval(config, loaded(plan, "meta"), "cpu", "meta")
    return {name.removesuffix("_custom_sae"): value for name, value in found.items()}


def ours_by_their_formula(plan: dict[str, Any]) -> float:
    """The same of a meta-SAE of ours: SAEBench's formula, our coder."""
    reads = {"model_name": plan["model"], "hook": "blocks.0.hook_resid_post"}  # unread here
    coder = load_for_saebench(plan["meta_coder"], **reads)
    W_FE = load_for_saebench(f"{plan['coders']}/{plan['meta'][0]}").W_dec
    unit_FE = W_FE / W_FE.norm(dim=1, keepdim=True)
    explained, _ = meta_structure._decoder_variance_metrics(coder, unit_FE, 4096)
    return explained


def main(path: Path) -> None:
    plan = json.loads(path.read_text())
    core(plan)
    measured = {
        "probing": probing(plan),
        "meta": meta(plan),
        "meta_of_ours": ours_by_their_formula(plan),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("sae-bench", "sae-lens", "transformer-lens", "torch", "numpy", "datasets")
        },
    }
    Path("measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
