"""The quickstart's activations, as one file that every program can read."""

import math
import subprocess
import sys
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_dist.common.memory import keep_freed_memory
from sae_dist.store import open_store
from sae_dist.stream import BatchPart, HeldOutPart, StoredActivations, StreamConfig

SITE = "resid_post.2"
BATCH = 1024
TOKENS = 800_000
_STREAM = StreamConfig(bucket_tokens=131_072)
_HOME = Path("runs/quickstart_scratch")
STORE = _HOME / "store"
_COMMANDS = [  # the quickstart's first two steps, by one process
    ["sae-dist small_lm", f"folder={_HOME}/lm"],
    [
        *("launch/harvest.py", f"lm.name={_HOME}/lm", "text=stdlib", "tokens=1M"),
        *(f"store={STORE}", "sites=[resid_post.2,mlp_in.2,mlp_out.2]"),
        *("writer.chunk_mib=1", "writer.shard_mib=32"),
    ],
]


def quickstart_store(store: Path = STORE) -> Path:
    """The store; the quickstart's is made by its commands if it is not there yet."""
    if store == STORE and not (store / "MANIFEST.json").exists():
        for command in _COMMANDS:
            subprocess.run([sys.executable, *command], check=True)
    return store


def write_activations(store: Path, tokens: int, path: Path) -> dict[str, float]:
    """Write what a run of seed 0 reads and what it never reads, both divided by C = √E‖x‖².

    The file has `train` [N, D] in the order of the run's batches, `held_out` [M, D] and `scale`, C.

    Returns:
        D and the number of tokens of either part.
    """
    keep_freed_memory()
    source = StoredActivations(open_store(store))
    scale = math.sqrt(source.mean_square(SITE))
    with source.batches([SITE], BatchPart(BATCH, 0, _STREAM)) as batches:
        train = [batch.acts[SITE].float() for batch, _ in islice(batches, tokens // BATCH)]
    kept = [batch.acts[SITE][batch.trainable].float() for batch in _held_out(source)]
    train_ND, held_out_MD = torch.cat(train) / scale, torch.cat(kept) / scale
    tensors: dict[str, Tensor] = {"train": train_ND, "held_out": held_out_MD}
    save_file(tensors | {"scale": torch.tensor(scale)}, path)
    return {
        "d_in": train_ND.shape[1],
        "tokens": len(train_ND),
        "held_out_tokens": len(held_out_MD),
    }


def _held_out(source: StoredActivations):
    return source.held_out([SITE], HeldOutPart(batch_sequences=16))
