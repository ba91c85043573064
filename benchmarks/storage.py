"""Compare stores of bfloat16 and int8: bytes, reading rate, and FVU of coders trained on them.

    python -m benchmarks.storage --store STORE --site SITE     (prints one JSON object)

The activations of a bfloat16 store, of the quickstart say, are written once more in each format, in
the same grid of shards, and trained on with the same settings. Both coders are measured on the
held-out tokens as the bfloat16 store has them. Reading is timed in seconds of processor time, page
cache warm, medians of interleaved rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_dist.checkpoint import CheckpointConfig
from sae_dist.coders import Coder, CoderConfig, Kind, load_coder
from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.parallel import World, start_world
from sae_dist.store import Store, open_store, write_store
from sae_dist.stream import StoredActivations, StreamConfig
from sae_dist.train import LoopConfig, OptimConfig, RungConfig, TrainingRun
from sae_dist.train.journal import LogConfig, WandbMode

FORMATS = (FloatDtype.bfloat16, FloatDtype.int8)
STREAM = StreamConfig(lanes=16, bucket_tokens=131072)
_BATCH, _ROUNDS = 1024, 5


def copy(given: Store, site: str, path: Path, dtype: FloatDtype, num_sequences: int) -> Store:
    """The first sequences of a store in another format, a tenth held out."""
    sequences = range(num_sequences)
    x_NSD = from_storage(given.read_sequences(site, sequences), given.dtype)
    ids, trainable = given.read_tokens(sequences)
    size = dtype.disk.itemsize
    mib = {"chunk_mib": size / 2, "shard_mib": 8 * size}  # alike in tokens
    return write_store(
        path, {site: x_NSD}, input_ids=ids, trainable=trainable, dtype=dtype, held_out=0.1, **mib
    )


def train(world: World, store: Store, site: str, folder: Path, num_tokens: int) -> Coder:
    """A TopK coder as the quickstart trains it."""
    folder.mkdir()
    rung = RungConfig(
        name="topk",
        site=site,
        target=site,
        coder=CoderConfig(kind=Kind.topk, num_latents=512, k=8, aux_k=64),
        optim=OptimConfig(lr=0.008, scale_lr_by_width=False, warmup_steps=100, decay_share=0.5),
    )
    config = LoopConfig(
        tokens=num_tokens,
        batch_tokens=_BATCH,
        stream=STREAM,
        checkpoint=CheckpointConfig(every_steps=10**9),
        log=LogConfig(every_steps=10**9, histogram_every_steps=10**9, wandb=WandbMode.disabled),
    )
    TrainingRun(config, [rung], StoredActivations(store), world, folder).run()
    return load_coder(folder / "coders" / "topk")


@torch.no_grad()
def fvu(coder: Coder, store: Store, site: str) -> float:
    """Of the held-out trainable tokens of a store."""
    batches = list(StoredActivations(store).held_out([site], 0, 1, None))
    x_ND = torch.cat([batch.acts[site][batch.trainable] for batch in batches]).float()
    return float((x_ND - coder(x_ND)).square().sum() / (x_ND - x_ND.mean(0)).square().sum())


def error(store: Store, exact: Store, site: str) -> float:
    """Σ‖x - x̂‖² / Σ‖x - x̄‖² of what is stored, over the held-out tokens."""
    both = [
        torch.cat(
            [b.acts[site][b.trainable] for b in StoredActivations(s).held_out([site], 0, 1, None)]
        ).float()
        for s in (exact, store)
    ]
    x_ND, found_ND = both
    return float((x_ND - found_ND).square().sum() / (x_ND - x_ND.mean(0)).square().sum())


def batches_per_second(store: Store, site: str, num: int) -> float:
    """Batches of the stream a second of processor time, all threads together."""
    source, begun = StoredActivations(store), time.process_time()
    with source.batches([site], _BATCH, 0, STREAM, 0, 1, 0) as batches:
        found = sum(1 for _ in islice(batches, num))
    return found / (time.process_time() - begun)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--site", default="resid_post.2")
    parser.add_argument("--sequences", type=int, default=10**9)
    parser.add_argument("--tokens", type=int, default=800_000)
    asked = parser.parse_args()
    given = open_store(asked.store)
    num_sequences = min(asked.sequences, given.layout.num_sequences)
    results: dict[str, Any] = {"width": given.sites[asked.site], "tokens": asked.tokens}
    with start_world() as world, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stores = {
            dtype: copy(given, asked.site, folder / dtype, dtype, num_sequences)
            for dtype in FORMATS
        }
        exact = stores[FloatDtype.bfloat16]
        rates = _rates(stores, asked.site)
        for dtype, store in stores.items():
            coder = train(world, store, asked.site, folder / f"{dtype}-run", asked.tokens)
            results[dtype] = {
                "bytes": _site_bytes(store),
                "stored_fvu": error(store, exact, asked.site),
                "fvu": round(fvu(coder, exact, asked.site), 5),
                "batches_per_processor_second": round(rates[dtype], 1),
            }
    print(json.dumps(results, indent=1))


def _rates(stores: dict[FloatDtype, Store], site: str) -> dict[FloatDtype, float]:
    num = int(np.sum(next(iter(stores.values())).trainable_counts())) // _BATCH // 2
    found: dict[FloatDtype, list[float]] = {dtype: [] for dtype in stores}
    for _ in range(_ROUNDS):
        for dtype, store in stores.items():
            found[dtype].append(batches_per_second(store, site, num))
    return {dtype: statistics.median(rates) for dtype, rates in found.items()}


def _site_bytes(store: Store) -> int:
    files = (item for shard in store.manifest.shards for item in shard.files.items())
    return sum(record.bytes for file, record in files if not file.startswith("tokens/"))


if __name__ == "__main__":
    main()
