"""Time training on a language model's activations live, beside a harvest and training on its store.

    python -m benchmarks.live  # needs 1 GB for temporary files; prints one JSON object

A small language model of random weights reads Python's standard library. Rates are tokens a second
of processor time, which other programs on the machine hardly change, medians of interleaved rounds;
`tokens` are trained on, as many as the store has for training.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sae_dist.apps.harvest import read_text
from sae_dist.checkpoint import CheckpointConfig
from sae_dist.coders import TopK
from sae_dist.harvest import HarvestLoopConfig, Processes, Text, fill_store
from sae_dist.live import LiveActivations
from sae_dist.lm import LM, Capture, LMConfig, SmallLMConfig, resolve, train_small_lm
from sae_dist.parallel import World, start_world
from sae_dist.store import StoreConfig, StoreWriter, open_store
from sae_dist.stream import ActivationSource, StoredActivations, StreamConfig
from sae_dist.text import TextConfig, documents
from sae_dist.train import AdamConfig, LoopConfig, RungConfig, TrainingRun
from sae_dist.train.config import LogConfig, WandbMode

SITE, BATCH, BATCH_SEQUENCES = "resid_post.3", 1024, 2
TEXT = TextConfig(sequence_length=256)
STREAM = StreamConfig(bucket_tokens=2**13)
STORE = StoreConfig(held_out=0.05, chunk_mib=0.25, shard_mib=4)
LATENTS = {"one coder of 1,024": [1024], "three coders of 2,048": [2048] * 3}
_LAYERS, _WIDTH = 4, 256


def small_lm(folder: Path) -> LM:
    """A Llama of four layers, 256 wide, with a tokenizer of Python's own words."""
    tokenizer_only = SmallLMConfig(num_steps=1, held_out_sequences=1, hidden_size=48)
    train_small_lm(tokenizer_only, lambda: documents(TEXT), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": _WIDTH, "intermediate_size": 4 * _WIDTH, "vocab_size": len(tokenizer)}
    heads = {"num_attention_heads": 4, "num_hidden_layers": _LAYERS}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape, **heads))
    model.config.use_cache = False
    return LM(model.eval().requires_grad_(False), tokenizer, LMConfig(name="small"), "0")


def harvested(lm: LM, path: Path, num_tokens: int) -> ActivationSource:
    """A store of `num_tokens` to train on, made anew."""
    capture = Capture(lm.model, [resolve(lm.model, SITE)])
    num_sequences = round(num_tokens / (1 - STORE.held_out)) // TEXT.sequence_length
    limit = num_sequences * TEXT.sequence_length

    writer = StoreWriter.create(
        path, {SITE: _WIDTH}, TEXT.sequence_length, STORE, {}, num_sequences
    )
    config = HarvestLoopConfig(batch_sequences=BATCH_SEQUENCES)
    unit_sequences = writer.settings.shard_sequences

    def text(first: int, begin: object) -> Text:
        return read_text(TEXT, lm, unit_sequences, limit)

    fill_store(writer, capture, text, config, Processes(0, 1, torch.device("cpu")))
    return StoredActivations(open_store(path))


def live(lm: LM, num_tokens: int) -> ActivationSource:
    """The same text, of which so much is read that no epoch ends."""
    return LiveActivations(lm, [SITE], TEXT, 2 * num_tokens, STORE, BATCH_SEQUENCES)


def train(world: World, source: ActivationSource, folder: Path, widths: list[int], n: int) -> None:
    """`n` tokens through TopK coders, from building them to writing them."""
    folder.mkdir()
    rungs = [
        RungConfig(
            name=f"rung-{number}",
            site=SITE,
            target=SITE,
            coder=TopK(num_latents=width, k=16),
            optim=AdamConfig(lr=1e-3),
        )
        for number, width in enumerate(widths)
    ]
    config = LoopConfig(
        tokens=n,
        batch_tokens=BATCH,
        stream=STREAM,
        checkpoint=CheckpointConfig(every_steps=10**9),
        log=LogConfig(every_steps=10**9, histogram_every_steps=10**9, wandb=WandbMode.disabled),
    )
    TrainingRun(config, rungs, source, world, folder).run()


def seconds(world: World, lm: LM, folder: Path, widths: list[int], n: int) -> dict[str, float]:
    """One round: harvest, train on the store, and train live; processor seconds of each."""
    marks = [time.process_time()]
    stored = harvested(lm, folder / "store", n)
    marks.append(time.process_time())
    train(world, stored, folder / "stored", widths, n)
    marks.append(time.process_time())
    train(world, live(lm, n), folder / "live", widths, n)
    marks.append(time.process_time())
    parts = [after - before for before, after in pairwise(marks)]
    return dict(zip(("harvest", "train", "live"), parts, strict=True))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: for temporary files)")
    parser.add_argument("--tokens", type=int, default=2**16)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    results: dict[str, Any] = {
        "tokens": asked.tokens,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    with start_world() as world, tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        lm = small_lm(Path(temporary) / "lm")
        results["lm_parameters"] = lm.model.num_parameters()
        for name, widths in LATENTS.items():
            rounds = []
            for number in range(asked.rounds):
                folder = Path(temporary) / f"{widths[0]}-{number}"
                folder.mkdir()
                rounds.append(seconds(world, lm, folder, widths, asked.tokens))
            results[name] = _figures(rounds, asked.tokens)
    print(json.dumps(results, indent=1))


def _figures(rounds: list[dict[str, float]], num_tokens: int) -> dict[str, float]:
    """Tokens/s of each part, and what live takes beside the others."""
    both = [one["live"] / (one["harvest"] + one["train"]) for one in rounds]
    again = [one["live"] / one["train"] for one in rounds]
    rates = {
        f"{part}_tokens_per_second": round(
            statistics.median(num_tokens / one[part] for one in rounds)
        )
        for part in rounds[0]
    }
    return rates | {
        "live_over_harvest_and_train": round(statistics.median(both), 2),
        "live_over_train_again": round(statistics.median(again), 2),
    }


if __name__ == "__main__":
    main()
