"""A harvest beside its floors: the bare forward pass, and a plain write of the same bytes.

What is compared is measured in turns, and medians are taken; `folder` is to be on the disk that a
store would be on, and takes 3 GB.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.figures import Figure
from benchmarks.timing import DEVICE, TEMPORARY, in_turns
from sae_dist.harvest import HarvestLoopConfig, Processes, Text, UnitTokens, fill_store
from sae_dist.harvest.staging import StagingBuffer
from sae_dist.lm import Capture, compile_layers, resolve, truncate
from sae_dist.store import StoreConfig, StoreWriter

_IS_CUDA = DEVICE == "cuda"
_WIDTH, _LAYERS, _VOCAB = (2048, 12, 32_000) if _IS_CUDA else (512, 4, 4096)
_POSITIONS, _BATCH = (1024, 16) if _IS_CUDA else (128, 4)
_DEEPEST = _LAYERS - 2
_SITES = {
    "one site": [f"resid_post.{_DEEPEST}"],
    "five sites": [
        f"{kind}.{_DEEPEST}" for kind in ("resid_pre", "attn_z", "mlp_in", "mlp_out", "resid_post")
    ],
}
_HARVEST_TURNS, _HARVEST_BATCHES = 3, 8
PACKAGES = ("transformers",)
SMOKE = {"turns": 1, "shards": 1, "shard_mib": 2.0}


class _Stop(Exception):
    """The bare pass is over."""


def language_model() -> PreTrainedModel:
    """A Llama with random weights: time does not depend on them."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCAB,
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_WIDTH // 64,
        num_key_value_heads=_WIDTH // 64,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(DEVICE, torch.bfloat16 if _IS_CUDA else torch.float32)
    truncate(model, [resolve(model, name) for name in _SITES["one site"]])
    return model.eval().requires_grad_(False)


def bare_pass(model: PreTrainedModel) -> Callable[[torch.Tensor], None]:
    """The forward pass up to the end of the deepest layer; nothing is kept."""

    def stop(*_: object) -> None:
        raise _Stop

    @torch.no_grad()
    def run(ids_NS: torch.Tensor) -> None:
        handle = model.get_submodule(f"model.layers.{_DEEPEST}").register_forward_hook(stop)
        with suppress(_Stop):
            model.base_model(input_ids=ids_NS)
        handle.remove()

    return run


def random_ids(count: int) -> np.ndarray:
    """Random sequences [count, S]."""
    return np.random.default_rng(0).integers(0, _VOCAB, (count, _POSITIONS), np.int32)


def random_text(ids_NS: np.ndarray, unit_sequences: int, first: int, begin: object) -> Text:
    """The same as units of a store, all tokens trainable."""
    starts = range(first * unit_sequences, len(ids_NS), unit_sequences)
    units = (ids_NS[start : start + unit_sequences] for start in starts)
    return Text((UnitTokens(ids, np.ones(ids.shape, bool), None) for ids in units), dict)


def write_speed(folder: Path, shards: int, shard_mib: float) -> Figure:
    """Bytes a second of whole shards, checked and committed, and of a plain write of them."""
    sequences = int(shard_mib * 2**20) // (_POSITIONS * _WIDTH * 2)
    shape = (sequences, _POSITIONS, _WIDTH)
    generator = torch.Generator().manual_seed(0)
    acts_NSD = torch.randn(shape, generator=generator).bfloat16().view(torch.uint16).numpy()
    config = StoreConfig(shard_mib=shard_mib, held_out=0.0)
    total = sequences * (shards + 1)
    writer = StoreWriter.create(folder, {"x": _WIDTH}, _POSITIONS, config, {}, total)
    ids_NS = random_ids(total)
    for unit in range(shards + 1):
        own_NS = ids_NS[unit * sequences : (unit + 1) * sequences]
        writer.put_tokens(unit, own_NS, np.ones(own_NS.shape, bool), None)
    writer.end_tokens(total, {})
    units = iter(writer.missing())
    plain = folder / "plain"

    def write_plainly() -> None:
        with open(plain, "wb", buffering=0) as file:
            file.write(acts_NSD.data.cast("B"))
            os.fsync(file.fileno())

    actions: dict[str, Callable[[], object]] = {
        "plain": write_plainly,
        "removal": plain.unlink,
        "store": lambda: writer.write_unit(next(units), {"x": acts_NSD}),
    }
    times = in_turns(actions, shards)
    rates = {n: acts_NSD.nbytes / 1e9 / statistics.median(times[n]) for n in ("plain", "store")}
    return Figure(f"writing a shard of {shard_mib:g} MiB", rates["store"], "GB/s", rates["plain"])


def capture_speed(model: PreTrainedModel, turns: int) -> Iterator[Figure]:
    """Milliseconds of bare passes, and with hooks, rounding and copies to the host."""
    ids_NS = torch.from_numpy(random_ids(_BATCH)).long().to(DEVICE)
    run = bare_pass(model)
    actions: dict[str, Callable[[], object]] = {"bare": lambda: run(ids_NS)}
    for name, sites in _SITES.items():
        capture = Capture(model, [resolve(model, site) for site in sites])
        widths = dict.fromkeys(sites, _WIDTH)
        size = (_BATCH, _POSITIONS)
        buffer = StagingBuffer(widths, size, StoreConfig().dtype, torch.device(DEVICE))
        actions[name] = lambda c=capture, b=buffer: b.put(range(_BATCH), c(ids_NS))
    compiled = language_model()  # the turn that compiles is the first, which does not count
    if not compile_layers(compiled, [resolve(compiled, site) for site in _SITES["one site"]]):
        raise RuntimeError("no layer is compiled")
    for name, lm in (("compiled", compiled), ("not compiled", model)):
        sites = [resolve(lm, site) for site in _SITES["one site"]]
        actions[name] = partial(Capture(lm, sites), ids_NS)
    times = in_turns(actions, turns)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    for name in _SITES:
        yield Figure(f"a pass that is captured, {name}", medians[name], "ms", medians["bare"])
    yield Figure("a pass with lm.compile", medians["compiled"], "ms", medians["not compiled"])


def harvest_speed(model: PreTrainedModel, folder: Path) -> Figure:
    """Tokens a second of whole harvests, from stored tokens to the seal, beside bare passes."""
    sites = _SITES["five sites"]
    capture = Capture(model, [resolve(model, site) for site in sites])
    count = _HARVEST_BATCHES * _BATCH
    sequence_mib = _POSITIONS * len(sites) * _WIDTH * 2 / 2**20
    config = StoreConfig(
        chunk_mib=_BATCH * sequence_mib, shard_mib=4.5 * _BATCH * sequence_mib, held_out=0.0
    )
    widths = dict.fromkeys(sites, _WIDTH)
    names = iter(range(_HARVEST_TURNS + 1))
    processes = Processes(0, 1, torch.device(DEVICE))
    run = bare_pass(model)
    batches = torch.from_numpy(random_ids(count)).long().split(_BATCH)

    def fill() -> None:
        path = folder / str(next(names))
        writer = StoreWriter.create(path, widths, _POSITIONS, config, {}, count)
        loop = HarvestLoopConfig(batch_sequences=_BATCH)
        text = partial(random_text, random_ids(count), writer.settings.shard_sequences)
        fill_store(writer, capture, text, loop, processes)

    actions = {"bare": lambda: [run(ids_NS.to(DEVICE)) for ids_NS in batches], "harvest": fill}
    times = in_turns(actions, _HARVEST_TURNS)
    rates = {n: count * _POSITIONS / statistics.median(times[n]) for n in actions}
    return Figure("a whole harvest, five sites", rates["harvest"], "tokens/s", rates["bare"])


def run(
    turns: int = 15,
    shards: int = 7,
    shard_mib: float = 256.0,
    folder: Path = TEMPORARY,
) -> Iterator[Figure]:
    """Capture, a whole harvest and writing, each beside its floor.

    Args:
        turns: of passes.
        shards: to write.
        shard_mib: size of each.
        folder: where to write.
    """
    model = language_model()
    yield from capture_speed(model, turns)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        yield harvest_speed(model, Path(own))
        yield write_speed(Path(own) / "store", shards, shard_mib)
