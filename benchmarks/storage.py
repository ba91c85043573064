"""Stores of bfloat16 and int8: bytes, reading rates, and FVU of coders trained on them.

The quickstart's activations of one site are stored once more in each format, in the same grid of
shards and chunks, and trained on in the same order from the same first weights. All coders are
measured on the held-out tokens as bfloat16 has them.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.activations import BATCH, SITE, STORE, TOKENS, made
from benchmarks.figures import Figure
from benchmarks.stream import forget
from sae_dist.checkpoint import CheckpointConfig
from sae_dist.coders import Coder, TopK, load_coder
from sae_dist.common.dtypes import FloatDtype, from_storage
from sae_dist.parallel import World, start_world
from sae_dist.store import Store, open_store, write_store
from sae_dist.stream import BatchPart, HeldOutPart, StoredActivations, StreamConfig
from sae_dist.train import Adam, LoopConfig, RungConfig, TrainingRun
from sae_dist.train.config import LogConfig, WandbMode

FORMATS = (FloatDtype.bfloat16, FloatDtype.int8)
STREAM = StreamConfig(bucket_tokens=131_072)
_NEVER = 10**9
_ROUNDS = 5
SMOKE = {"max_sequences": 20_000, "tokens": 16 * BATCH, "seeds": 1}


def stored_as(dtype: FloatDtype, given: Store, num_rows: int, path: Path) -> Store:
    """The first rows of a store in another format, a tenth of its shards held out."""
    num_chunks = int(np.searchsorted(given.chunk_rows.cumsum(), num_rows)) + 1
    chunks = [given.read_rows(SITE, n) for n in range(min(num_chunks, len(given.chunk_rows)))]
    x_ND = from_storage(np.concatenate(chunks), given.dtype)[:num_rows]
    size = dtype.disk.itemsize
    mib = {"chunk_mib": size / 2, "shard_mib": 8 * size}  # alike in tokens
    return write_store(path, {SITE: x_ND}, dtype=dtype, held_out=0.1, **mib)


def trained(world: World, store: Store, num_tokens: int, seed: int, folder: Path) -> Coder:
    """The quickstart's TopK coder of 512 latents."""
    folder.mkdir()
    rung = RungConfig(
        name="topk",
        site=SITE,
        target=SITE,
        coder=TopK(num_latents=512, k=8, aux_k=64, dead_after_tokens=100_000),
        optim=Adam(lr=0.008, scale_lr_by_width=False, warmup_steps=100, decay_share=0.5),
    )
    config = LoopConfig(
        seed=seed,
        tokens=num_tokens,
        batch_tokens=BATCH,
        stream=STREAM,
        checkpoint=CheckpointConfig(every_steps=_NEVER),
        log=LogConfig(every_steps=_NEVER, histogram_every_steps=_NEVER, wandb=WandbMode.disabled),
    )
    TrainingRun(config, [rung], StoredActivations(store), world, folder).run()
    return load_coder(folder / "coders" / rung.name)


def held_out(store: Store) -> torch.Tensor:
    """The held-out trainable tokens [N, D], float32."""
    batches = StoredActivations(store).held_out([SITE], HeldOutPart(batch_sequences=16))
    return torch.cat([batch.acts[SITE][batch.trainable] for batch in batches]).float()


def fvu(x_ND: torch.Tensor, found_ND: torch.Tensor) -> float:
    """Σ‖x - x̂‖² / Σ‖x - x̄‖²."""
    return float((x_ND - found_ND).square().sum() / (x_ND - x_ND.mean(0)).square().sum())


def reading(store: Store, num_batches: int, *, is_cold: bool) -> float:
    """Tokens a second: cold by the clock, else of the processor time of all threads together."""
    if is_cold and not forget(store):
        raise OSError("the page cache cannot be emptied here")
    clock = time.perf_counter if is_cold else time.process_time
    source, begun = StoredActivations(store), clock()
    with source.batches([SITE], BatchPart(BATCH, 0, STREAM)) as batches:
        num_read = sum(1 for _ in islice(batches, num_batches))
    return num_read * BATCH / (clock() - begun)


def reading_rates(stores: dict[FloatDtype, Store]) -> dict[FloatDtype, dict[str, float]]:
    """Over half an epoch: medians of rounds in which the formats take turns."""
    names = {"cached": False, "cold": True}
    num_batches = int(stores[FORMATS[0]].chunk_rows.sum()) // BATCH // 2
    rounds = [
        {
            name: {d: reading(store, num_batches, is_cold=is_cold) for d, store in stores.items()}
            for name, is_cold in names.items()
        }
        for _ in range(_ROUNDS)
    ]
    return {
        dtype: {name: statistics.median(turn[name][dtype] for turn in rounds) for name in names}
        for dtype in stores
    }


def bytes_per_token(store: Store) -> float:
    """On disk, of the site alone: values, scales, checksums and indices."""
    folders = (store.path / "rows" / kind / SITE for kind in ("activations", "scales"))
    total = sum(file.stat().st_size for folder in folders for file in folder.glob("c.*"))
    return total / int(store.chunk_rows.sum())


def run(
    store: Path = STORE,
    max_sequences: int = 10**9,
    tokens: int = TOKENS,
    seeds: int = 3,
) -> Iterator[Figure]:
    """Bytes, FVU and reading rates of int8 beside bfloat16's.

    Args:
        store: whose activations; the quickstart's is made where it is not there.
        max_sequences: take no more of it.
        tokens: to train on.
        seeds: of coders.
    """
    with tempfile.TemporaryDirectory() as own, start_world() as world:
        folder, given = Path(own), open_store(made(store))
        num_rows = min(max_sequences * given.layout.sequence_length, int(given.chunk_rows.sum()))
        stores = {d: stored_as(d, given, num_rows, folder / d) for d in FORMATS}
        exact_ND, rates = held_out(stores[FloatDtype.bfloat16]), reading_rates(stores)
        found: dict[str, dict[str, tuple[float, str]]] = {}
        for dtype, own_store in stores.items():
            fvus = []
            for seed in range(seeds):
                coder = trained(world, own_store, tokens, seed, folder / f"{dtype}-{seed}")
                fvus.append(fvu(exact_ND, coder(exact_ND)))
            found[dtype] = {
                "bytes of a token": (bytes_per_token(own_store), "bytes"),
                "FVU of what is stored": (fvu(exact_ND, held_out(own_store)), ""),
                "FVU of a coder": (statistics.mean(fvus), ""),
                "reading from the page cache": (rates[dtype]["cached"], "tokens/s of a processor"),
                "reading from disk": (rates[dtype]["cold"], "tokens/s"),
            }
            for name, (value, unit) in found[dtype].items():
                first = FORMATS[0]
                exact = found[first][name][0]
                others = {first.value: exact} if dtype != first and exact else {}
                more = {"fvus": fvus} if "coder" in name else {}
                yield Figure(f"{name}, {dtype}", value, unit, others=others, more=more)
