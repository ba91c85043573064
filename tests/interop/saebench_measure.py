"""What SAEBench measures of our coders, on the tokens and the LM of our own evaluation.

Coders, figures and tokens are those of the commands: small LM, harvest, train, evaluate. SAEBench
runs in a process of its own Python, which SAE_DIST_SAEBENCH names.
"""

import asyncio
import email
import json
import os
import subprocess
import unittest
import xml
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sae_dist.coders import fold, load_coder
from sae_dist.evaluate import read_evaluation
from sae_dist.interop import format_named
from sae_dist.lm import LMConfig, load_lm
from sae_dist.store import open_store
from sae_dist.stream import HeldOutBatch, HeldOutPart, held_out
from tests.apps.commands import ROOT, command, installed
from tests.interop.hub import serving
from tests.interop.saebench_formulas import of_activations, of_the_lm

# TransformerLens loads names that it knows, and a folder of such a name first. This one stands for
# any Llama: nothing about it is fixed but what its configuration says.
LM = "01-ai/Yi-6B"
CLASSES = "fancyzhx/ag_news"  # likewise: a data set of four classes, here packages of Python's
PACKAGES = asyncio, email, unittest, xml
SEQUENCES, LENGTH, BATCH = 64, 64, 16
F, K, UNITS = 256, 8, 100.0
TOPK = f"topk-{F}-k{K}-resid_post.0"
TRANSCODER = f"topk_transcoder-{F}-k{K}-mlp_in.1"
META = "batchtopk-64-k4-decoder"

_SHORT = "optim.lr:0.004,optim.warmup_steps:20"
_TOPK = f"coder.k:{K},{_SHORT}"
_JUMPRELU = (
    f"coder.target_l0:{K},coder.bandwidth:0.06,coder.initial_threshold:0.15,"
    f"coder.sparsity_coefficient:0.01,optim.sparsity_warmup_steps:60,{_SHORT}"
)
_GRIDS = (
    f"{{coder:[topk,batchtopk],site:resid_post.0,{_TOPK}}},"
    f"{{coder:jumprelu,site:resid_post.0,{_JUMPRELU}}},"
    f"{{coder:topk,site:attn_z.1,{_TOPK}}},"
    f"{{coder:topk_transcoder,site:mlp_in.1,target:mlp_out.1,{_TOPK}}}"
)
# The store holds float32, and norms are folded, so that TransformerLens has the same activations.
_WAY = f"""
small_lm folder={LM} model.vocab_size=1024 model.hidden_size=64 model.intermediate_size=128
    model.num_layers=2 model.num_heads=4 model.sequence_length={LENGTH} model.batch_size=8
    model.num_steps=150
harvest lm.name={LM} lm.fold_norms=true text=stdlib text.sequence_length={LENGTH} store=store
    sites=[resid_post.0,attn_z.1,mlp_in.1,mlp_out.1] tokens=80K writer.held_out=0.1
    writer.dtype=float32 writer.chunk_mib=0.25 writer.shard_mib=2
train store=store run=r tokens=60K batch_tokens=512 stream.bucket_tokens=16384
    coder.num_latents={F} log.wandb=disabled sweep.grids=[{_GRIDS}]
evaluate run=r max_sequences={SEQUENCES} lm_sequences={SEQUENCES}
    uniformity_sequences=0 pairs.sequences=0
train +experiment=meta_sae decoder=runs/r/coders/{TOPK} run=meta tokens=20K batch_tokens=256
    coder.num_latents=64 coder.aux_k=16 optim.lr=0.004 optim.warmup_steps=20 log.wandb=disabled
evaluate run=meta pairs.sequences=0
"""


@dataclass
class Found:
    """All that was measured, by coder and by SAEBench's names.

    Attributes:
        theirs, ours: figures of the core evaluation, and ours beside them, where we have such.
        formulas: theirs as we compute them.
        rescaled: their `explained_variance` of one coder on activations UNITS times as large.
        saelens: the core figures of the same coders as SAELens loads them.
        probing, meta, versions: what SAEBench says.
        meta_of_ours: the variance explained of a meta-SAE of ours, by their formula and by us.
    """

    theirs: dict[str, dict[str, float]]
    ours: dict[str, dict[str, float]]
    formulas: dict[str, dict[str, float]]
    rescaled: float
    saelens: dict[str, dict[str, float]]
    probing: dict[str, Any]
    meta: dict[str, float]
    meta_of_ours: tuple[float, float]
    versions: dict[str, str]


def python() -> str | None:
    """SAEBench's Python, as make gives it."""
    found = os.environ.get("SAE_DIST_SAEBENCH")
    return found and str(Path(found).absolute())


def relative(one: float, other: float) -> float:
    """How far the first is from the other."""
    return abs(one - other) / abs(other)


def measure(home: Path) -> Found:
    """Go the whole way in an empty folder, then let SAEBench measure what came of it."""
    for line in _WAY.replace("\n    ", " ").strip().splitlines():
        name, *given = line.split()
        done = command(*installed(name), *given, cwd=home)
        assert done.returncode == 0, done.stderr
    tokens = [ids for batch in _batches(home, []) for ids in batch.input_ids.tolist()]
    _write_lines(home / "tokens/train.jsonl", [{"tokens": ids} for ids in tokens])
    _write_classes(home / CLASSES)
    said = _run(home, _plan(home))
    results = read_evaluation(home / "runs/r")
    meta = read_evaluation(home / "runs/meta")["rungs"][META]
    core = {path.name: _core_figures(path) for path in sorted((home / "core").iterdir())}
    core = {name.removesuffix("_custom_sae_eval_results.json"): f for name, f in core.items()}
    theirs = {name: f for name, f in core.items() if not name.startswith("saelens-")}
    return Found(
        theirs=theirs,
        ours={name: _ours(results, name) for name in results["rungs"]},
        formulas=_formulas(home, results["rungs"], list(theirs)),
        rescaled=_rescaled(home),
        saelens={n.removeprefix("saelens-"): f for n, f in core.items() if n not in theirs},
        probing=said["probing"],
        meta=said["meta"],
        meta_of_ours=(said["meta_of_ours"], meta["variance_explained"]),
        versions=said["versions"],
    )


def _plan(home: Path) -> dict[str, Any]:
    coders = sorted(path.name for path in (home / "runs/r/coders").iterdir())
    lens = [name for name in coders if "resid_post" in name]
    for name in lens:
        coder, about = load_coder(home / f"runs/r/coders/{name}"), {"site": "resid_post.0"}
        about["target"] = about["site"]
        format_named("saelens").write(home / "lens" / name, coder, about)
    return {
        "model": LM,
        "coders": "runs/r/coders",
        "tokens": "tokens",
        "classes": CLASSES,
        "context": LENGTH,
        "batch": BATCH,
        "batches": SEQUENCES // BATCH,
        "core": coders,
        "probing": [name for name in coders if "attn_z" not in name],
        "meta": [TOPK, TRANSCODER],
        "lens": {name: f"lens/{name}" for name in lens},
        "meta_coder": f"runs/meta/coders/{META}",
        "probing_sizes": {"probe_train_set_size": 80, "probe_test_set_size": 28},
        "meta_steps": {"train_steps": 100, "train_batch_size": 128},
    }


def _run(home: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Let SAEBench do it, in a process of its own Python; the Hub that it asks knows nothing."""
    (home / "plan.json").write_text(json.dumps(plan))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}
    client = str(Path(__file__).with_name("saebench_client.py"))
    with serving() as hub:
        environment = {**kept, **own, **hub.environment(str(home / "hf"))}
        done = subprocess.run(
            [python() or "", client, "plan.json"],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    said: dict[str, Any] = json.loads((home / "measured.json").read_text())
    return said


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_classes(folder: Path) -> None:
    """Pieces of 300 characters of four of Python's packages; of each 42 to train and 14 to test."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for label, package in enumerate(PACKAGES):
        sources = sorted(Path(package.__path__[0]).rglob("*.py"))
        text = "".join(path.read_text() for path in sources)
        for i in range(56):
            piece = {"text": text[300 * i : 300 * (i + 1)], "label": label}
            rows["train" if i % 4 else "test"].append(piece)
    for split, found in rows.items():
        _write_lines(folder / f"{split}.jsonl", found)


def _batches(home: Path, sites: list[str]) -> list[HeldOutBatch]:
    """The held-out sequences that are evaluated, in SAEBench's batches."""
    store = open_store(home / "store")
    return list(held_out(store, sites, HeldOutPart(0, 1, SEQUENCES, BATCH)))


def _core_figures(path: Path) -> dict[str, float]:
    """SAEBench's file of one coder as one dict; of latents that fired the mean."""
    results = json.loads(path.read_text())
    categories = results["eval_result_metrics"].values()
    figures = {name: value for category in categories for name, value in category.items()}
    name = "consistent_activation_heuristic"
    fired = [v for latent in results["eval_result_details"] if (v := latent[name]) != -1]
    return figures | {name: sum(fired) / len(fired)}


def _ours(results: dict[str, Any], name: str) -> dict[str, float]:
    """Our figures by SAEBench's names."""
    rung, clean = results["rungs"][name], results["clean_loss"]
    return {
        "l0": rung["l0"],
        "cossim": rung["cosine_similarity"],
        "l2_ratio": rung["l2_norm_ratio"],
        "frac_alive": 1 - rung["dead_share"],
        "freq_over_1_percent": rung["share_above_1_percent"],
        "freq_over_10_percent": rung["share_above_10_percent"],
        "consistent_activation_heuristic": rung["consistent_activation_code"]["mean"],
        "explained_variance": rung["variance_explained"],
        "explained_variance_legacy": 1 - rung["fvu_variants"]["token_mean"],
        "relative_reconstruction_bias": rung["relative_reconstruction_bias"],
        "ce_loss_without_sae": clean,
        "ce_loss_with_sae": clean + rung["delta_loss"],
        "ce_loss_with_ablation": rung["zero_ablation_loss"],
        "ce_loss_score": rung["loss_recovered"],
        "kl_div_with_sae": rung["kl"],
        "kl_div_score": rung["kl_score"],
    }


@torch.no_grad()
def _formulas(home: Path, rungs: dict[str, Any], names: list[str]) -> dict[str, dict[str, float]]:
    lm = load_lm(LMConfig(name=str(home / LM), fold_norms=True), "cpu")
    found = {}
    for name in names:
        coder, site = load_coder(home / f"runs/r/coders/{name}"), rungs[name]["site"]
        batches = _batches(home, [site])
        found[name] = of_activations(coder, site, batches) | of_the_lm(lm, coder, site, batches)
    return found


def _rescaled(home: Path) -> float:
    """By the formula that SAEBench's own figures are held to; nothing is explained otherwise."""
    coder, site = fold(load_coder(home / f"runs/r/coders/{TOPK}"), UNITS), "resid_post.0"
    batches = [replace(b, acts={site: UNITS * b.acts[site]}) for b in _batches(home, [site])]
    return of_activations(coder, site, batches)["explained_variance"]
