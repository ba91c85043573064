"""Activations of the quickstart's small LM and of Gemma 3 270M, as files for every program."""

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file

from sae_dist.common.memory import keep_freed_memory
from sae_dist.store import open_store
from sae_dist.stream import BatchPart, HeldOutBatch, HeldOutPart, StoredActivations, StreamConfig

SITE = "resid_post.2"
BATCH = 1024
TOKENS = 800_000
_STREAM = StreamConfig(bucket_tokens=131_072)
_HOME = Path("runs/quickstart_scratch")
STORE = _HOME / "store"
REAL_STORE = Path("runs/quality/store")
REAL_SITE, REAL_MLP = "resid_post.9", ("mlp_in.9", "mlp_out.9")
SMOLLM2_STORE = Path("runs/sinks/store")
SMOLLM2_SITES, SMOLLM2_MLP = ("resid_post.8", "resid_post.15"), ("mlp_in.8", "mlp_out.8")
COMMANDS = {  # that make them, each by one process
    STORE: [  # the quickstart's first two steps
        ["small_lm", f"folder={_HOME}/lm"],
        [
            *("harvest", f"lm.name={_HOME}/lm", "text=stdlib", "tokens=1M"),
            *(f"store={STORE}", "sites=[resid_post.2,mlp_in.2,mlp_out.2]"),
            *("writer.chunk_mib=1", "writer.shard_mib=32"),
        ],
    ],
    REAL_STORE: [
        [
            *("harvest", "lm=gemma_3_270m", "lm.dtype=fastest", "text=public_domain"),
            *("tokens=2.3M", f"store={REAL_STORE}", f"sites=[{REAL_SITE},{','.join(REAL_MLP)}]"),
            *("writer.chunk_mib=1", "writer.shard_mib=64"),
        ],
    ],
    SMOLLM2_STORE: [
        [
            *("harvest", "lm=smollm2_135m", "lm.dtype=fastest", "text=public_domain"),
            *("tokens=350K", f"store={SMOLLM2_STORE}"),
            f"sites=[{','.join((*SMOLLM2_SITES, *SMOLLM2_MLP))}]",
            *("writer.chunk_mib=1", "writer.shard_mib=32"),
        ],
    ],
}


def made(store: Path) -> Path:
    """The store; one that is known is made by its commands if it is not there yet."""
    if store in COMMANDS and not (store / "MANIFEST.json").exists():
        for command in COMMANDS[store]:
            subprocess.run([sys.executable, "-m", "sae_dist", *command], check=True)
    return store


def write_activations(
    store: Path, sites: Sequence[str], tokens: int, path: Path, batch: int = BATCH
) -> dict[str, float]:
    """Write what a run of seed 0 reads of a site, and what it never reads, as they are stored.

    The file has `train` [N, D] in the order of the run's batches, `held_out` [M, D] and `scale`,
    C = √E‖x‖², and `target_scale`; where there is a second site, the target, that is its own, and
    there are `train_target` and `held_out_target`.

    Returns:
        D and the number of tokens of either part.
    """
    keep_freed_memory()
    source = StoredActivations(open_store(store))
    names = dict(zip(("", "_target"), sites, strict=False))
    unique = list(dict.fromkeys(sites))
    places = {"scale": sites[0], "target_scale": sites[-1]}
    scales = {name: math.sqrt(source.mean_square(site)) for name, site in places.items()}
    tensors = {name: torch.tensor(scale) for name, scale in scales.items()}
    with source.batches(unique, BatchPart(batch, 0, _STREAM)) as batches:
        for number, (rows, _) in enumerate(islice(batches, tokens // batch)):
            for suffix, site in names.items():
                x_BD = rows.acts[site]
                if not number:
                    tensors[f"train{suffix}"] = x_BD.new_empty(
                        tokens // batch * batch, x_BD.shape[1]
                    )
                tensors[f"train{suffix}"][number * batch : (number + 1) * batch] = x_BD
    kept = [(rows.acts, rows.trainable) for rows in _held_out(source, unique)]
    for suffix, site in names.items():
        tensors[f"held_out{suffix}"] = torch.cat(
            [acts[site][trainable] for acts, trainable in kept]
        )
    save_file(tensors, path)
    return {
        "d_in": tensors["train"].shape[1],
        "tokens": len(tensors["train"]),
        "held_out_tokens": len(tensors["held_out"]),
    }


def _held_out(source: StoredActivations, sites: list[str]) -> Iterator[HeldOutBatch]:
    return source.held_out(sites, HeldOutPart(batch_sequences=16))
