"""Training on a language model's activations live, beside a harvest and training on its store.

A small language model of random weights reads Python's standard library. Seconds of processor time,
which other programs on the machine hardly change, medians of interleaved rounds; `tokens` are
trained on, as many as the store has for training.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.figures import Figure
from benchmarks.timing import TEMPORARY
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
from sae_dist.train import Adam, LoopConfig, RungConfig, TrainingRun
from sae_dist.train.config import LogConfig, WandbMode

SITE, BATCH, BATCH_SEQUENCES = "resid_post.3", 1024, 2
TEXT = TextConfig(sequence_length=256)
STREAM = StreamConfig(bucket_tokens=2**13)
LADDERS = {"one coder of 1,024": (1024,), "three coders of 2,048": (2048,) * 3}
_LAYERS = 4
SMOKE = {"tokens": 2**13, "rounds": 1, "width": 16, "shard_mib": 0.1}


def small_lm(folder: Path, width: int) -> LM:
    """A Llama of four layers, with a tokenizer of Python's own words."""
    tokenizer_only = SmallLMConfig(num_steps=1, held_out_sequences=1, hidden_size=48)
    train_small_lm(tokenizer_only, lambda: documents(TEXT), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "vocab_size": len(tokenizer)}
    heads = {"num_attention_heads": 4, "num_hidden_layers": _LAYERS}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape, **heads))
    model.config.use_cache = False
    return LM(model.eval().requires_grad_(False), tokenizer, LMConfig(name="small"), "0")


def harvested(lm: LM, path: Path, num_tokens: int, config: StoreConfig) -> ActivationSource:
    """A store of `num_tokens` to train on, made anew."""
    capture = Capture(lm.model, [resolve(lm.model, SITE)])
    num_sequences = round(num_tokens / (1 - config.held_out)) // TEXT.sequence_length
    limit = num_sequences * TEXT.sequence_length
    sites = {SITE: lm.model.config.hidden_size}
    writer = StoreWriter.create(path, sites, TEXT.sequence_length, config, {}, num_sequences)
    loop = HarvestLoopConfig(batch_sequences=BATCH_SEQUENCES)
    unit_sequences = writer.settings.shard_sequences

    def text(first: int, begin: object) -> Text:
        return read_text(TEXT, lm, unit_sequences, limit)

    fill_store(writer, capture, text, loop, Processes(0, 1, torch.device("cpu")))
    return StoredActivations(open_store(path))


def live_source(lm: LM, num_tokens: int, config: StoreConfig) -> ActivationSource:
    """The same text, of which so much is read that no epoch ends."""
    return LiveActivations(lm, [SITE], TEXT, 2 * num_tokens, config, BATCH_SEQUENCES)


def train(
    world: World, source: ActivationSource, folder: Path, widths: tuple[int, ...], n: int
) -> None:
    """`n` tokens through TopK coders, from building them to writing them."""
    folder.mkdir()
    rungs = [
        RungConfig(
            name=f"rung-{number}",
            site=SITE,
            target=SITE,
            coder=TopK(num_latents=width, k=16),
            optim=Adam(lr=1e-3),
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


def seconds(
    world: World, lm: LM, folder: Path, widths: tuple[int, ...], n: int, config: StoreConfig
) -> dict[str, float]:
    """One round: harvest, train on the store, and train live; processor seconds of each."""
    marks = [time.process_time()]
    stored = harvested(lm, folder / "store", n, config)
    marks.append(time.process_time())
    train(world, stored, folder / "stored", widths, n)
    marks.append(time.process_time())
    train(world, live_source(lm, n, config), folder / "live", widths, n)
    marks.append(time.process_time())
    parts = [after - before for before, after in pairwise(marks)]
    return dict(zip(("harvest", "train", "live"), parts, strict=True))


def run(
    tokens: int = 2**16,
    rounds: int = 3,
    width: int = 256,
    shard_mib: float = 4.0,
    folder: Path = TEMPORARY,
) -> Iterator[Figure]:
    """Processor seconds of live training, beside a harvest and training, and beside training again.

    Args:
        tokens: to train on.
        rounds: whose median counts.
        width: of the language model.
        shard_mib: of the stores, and of what live training holds.
        folder: where to write; 1 GB.
    """
    config = StoreConfig(held_out=0.05, chunk_mib=shard_mib / 16, shard_mib=shard_mib)
    with start_world() as world, tempfile.TemporaryDirectory(dir=folder) as temporary:
        lm = small_lm(Path(temporary) / "lm", width)
        for name, widths in LADDERS.items():
            found = []
            for number in range(rounds):
                own = Path(temporary) / f"{widths[0]}-{number}"
                own.mkdir()
                found.append(seconds(world, lm, own, widths, tokens, config))
            parts = {part: statistics.median(one[part] for one in found) for part in found[0]}
            both = {"harvest, then training": parts["harvest"] + parts["train"]}
            again = {"training on the store again": parts["train"]}
            for others in (both, again):
                title = f"live, {name}, beside {next(iter(others))}"
                yield Figure(title, parts["live"], "processor s", others=others, more=parts)
