"""Time a harvest beside its floors: the bare forward pass, and a plain write of the same bytes.

    python -m benchmarks.harvest  # 3 GB in its folder

Prints one JSON object. What is compared is measured in turns, and medians are taken; `folder` is to
be on the disk that a store would be on.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.measure import DEVICE, machine, synchronise
from sae_dist.harvest import HarvestLoopConfig, Processes, Text, UnitTokens, fill_store
from sae_dist.harvest.staging import StagingBuffer
from sae_dist.lm import Capture, compile_layers, resolve, truncate
from sae_dist.store import StoreConfig, StoreWriter

_IS_CUDA = DEVICE == "cuda"
_WIDTH, _LAYERS, _VOCAB = (2048, 12, 32_000) if _IS_CUDA else (512, 4, 4096)
_POSITIONS, _BATCH = (1024, 16) if _IS_CUDA else (128, 4)
_DEEPEST = _LAYERS - 2
_SITES = {
    "one_site": [f"resid_post.{_DEEPEST}"],
    "layer_sites": [
        f"{kind}.{_DEEPEST}" for kind in ("resid_pre", "attn_z", "mlp_in", "mlp_out", "resid_post")
    ],
}
_NUM_TURNS, _NUM_SHARDS, _SHARD_MIB = 15, 7, StoreConfig().shard_mib
_HARVEST_TURNS, _HARVEST_BATCHES = 3, 8


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
    truncate(model, [resolve(model, name) for name in _SITES["one_site"]])
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


def seconds(action: Callable[[], object]) -> float:
    """How long it takes, device included."""
    synchronise()
    start = time.perf_counter()
    action()
    synchronise()
    return time.perf_counter() - start


def in_turns(actions: dict[str, Callable[[], object]], num_turns: int) -> dict[str, list[float]]:
    """Seconds of each action, one after the other, after one turn to warm up."""
    turns = [{name: seconds(do) for name, do in actions.items()} for _ in range(num_turns + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in actions}


def random_ids(count: int) -> np.ndarray:
    """Random sequences [count, S]."""
    return np.random.default_rng(0).integers(0, _VOCAB, (count, _POSITIONS), np.int32)


def random_text(ids_NS: np.ndarray, unit_sequences: int, first: int, begin: object) -> Text:
    """The same as units of a store, all tokens trainable."""
    starts = range(first * unit_sequences, len(ids_NS), unit_sequences)
    units = (ids_NS[start : start + unit_sequences] for start in starts)
    return Text((UnitTokens(ids, np.ones(ids.shape, bool), None) for ids in units), dict)


def write_speed(folder: Path) -> dict[str, Any]:
    """Bytes a second of whole shards, checked and committed, and of a plain write of them."""
    sequences = int(_SHARD_MIB * 2**20) // (_POSITIONS * _WIDTH * 2)
    shape = (sequences, _POSITIONS, _WIDTH)
    generator = torch.Generator().manual_seed(0)
    acts_NSD = torch.randn(shape, generator=generator).bfloat16().view(torch.uint16).numpy()
    config = StoreConfig(shard_mib=_SHARD_MIB, held_out=0.0)
    total = sequences * (_NUM_SHARDS + 1)
    writer = StoreWriter.create(folder, {"x": _WIDTH}, _POSITIONS, config, {}, total)
    ids_NS = random_ids(total)
    for unit in range(_NUM_SHARDS + 1):
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
        "sequential": write_plainly,
        "removal": plain.unlink,
        "store": lambda: writer.write_unit(next(units), {"x": acts_NSD}),
    }
    times = in_turns(actions, _NUM_SHARDS)
    sequential, store = (statistics.median(times[name]) for name in ("sequential", "store"))
    return {
        "write_ratio": sequential / store,
        "bytes_per_second": acts_NSD.nbytes / store,
        "sequential_bytes_per_second": acts_NSD.nbytes / sequential,
    }


def capture_speed(model: PreTrainedModel) -> dict[str, Any]:
    """Tokens a second of bare passes, and what hooks, rounding and copies to the host add."""
    ids_NS = torch.from_numpy(random_ids(_BATCH)).long().to(DEVICE)
    run = bare_pass(model)
    actions: dict[str, Callable[[], object]] = {"bare": lambda: run(ids_NS)}
    for name, sites in _SITES.items():
        capture = Capture(model, [resolve(model, site) for site in sites])
        widths = dict.fromkeys(sites, _WIDTH)
        size = (_BATCH, _POSITIONS)
        room = StagingBuffer(widths, size, StoreConfig().dtype, torch.device(DEVICE))
        actions[name] = lambda c=capture, r=room: r.put(range(_BATCH), c(ids_NS))
    compiled = language_model()  # the turn that compiles is the first, which does not count
    for name, lm in (("compiled", compiled), ("not_compiled", model)):
        lm_sites = [resolve(lm, site) for site in _SITES["one_site"]]
        actions[name] = partial(Capture(lm, lm_sites), ids_NS)
    if not compile_layers(compiled, [resolve(compiled, s) for s in _SITES["one_site"]]):
        raise RuntimeError("no layer is compiled")
    times = in_turns(actions, _NUM_TURNS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "capture_overhead": medians["one_site"] / medians["bare"] - 1,
        "capture_overhead_layer_sites": medians["layer_sites"] / medians["bare"] - 1,
        "compiled_speedup": medians["not_compiled"] / medians["compiled"],
        "bare_tokens_per_second": ids_NS.numel() / medians["bare"],
    }


def harvest_speed(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """Tokens a second of whole harvests, from stored tokens to the seal, beside bare passes."""
    sites = _SITES["layer_sites"]
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
    bare, whole = (statistics.median(times[name]) for name in ("bare", "harvest"))
    return {
        "harvest_overhead": whole / bare - 1,
        "tokens_per_second": count * _POSITIONS / whole,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: for temporary files)")
    options = parser.parse_args()
    model = language_model()
    result = capture_speed(model)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result |= harvest_speed(model, Path(folder))
        result |= write_speed(Path(folder) / "store")
    about = {"d_model": _WIDTH, "positions": _POSITIONS, "batch_sequences": _BATCH}
    sizes = {"num_sites": len(_SITES["layer_sites"]), "shard_mib": _SHARD_MIB}
    print(json.dumps(result | about | sizes | {"machine": machine()}))


if __name__ == "__main__":
    main()
