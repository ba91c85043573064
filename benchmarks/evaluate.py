"""Evaluation beside the least it could do: read the held-out tokens and encode them.

A store of made-up activations is written, read, and removed. A coder of random weights
reads it twice in every round: `bare` streams and encodes, `evaluation` also reconstructs and adds
to all measures that need no language model. The order changes from round to round; figures are
medians of a round's ratios. Processor time counts all threads, and suffers less than the clock from
what else runs.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.figures import Figure
from benchmarks.timing import DEVICE, L0, TEMPORARY, K, activations, synchronise, threshold_for
from sae_dist.coders import Coder, KSparse, initialise, kind_named, kind_names
from sae_dist.evaluate import EvaluationConfig, Needs, Subject, run_coder
from sae_dist.evaluate.registry import measures
from sae_dist.parallel import Mesh, make_mesh, start_world
from sae_dist.store import open_store, write_store
from sae_dist.stream import HeldOutPart, StoredActivations

SEQUENCE, SITE = 128, "resid_post.0"
_BATCH = EvaluationConfig().batch_tokens
_HELD_OUT = 0.8
_CHUNK_SEQUENCES = 21  # 4 MiB of bfloat16, as by default; each chunk is evaluated by itself
_SAMPLE = 256  # rows by which thresholds are set
Pass = Callable[[], float]
SMOKE = {"tokens": 12_000, "num_latents": 256, "d_in": 16, "rounds": 1}


def make_source(path: Path, num_tokens: int, d_in: int) -> StoredActivations:
    """Held-out sequences of so many tokens; the first of each sequence is left out."""
    num_sequences = round(num_tokens / _HELD_OUT / SEQUENCE)
    blocks = [x_BD.cpu().view(-1, SEQUENCE, d_in) for x_BD in activations(d_in, _BATCH)]
    whole_NSD = torch.cat(blocks).repeat(-(-num_sequences // (4 * len(blocks[0]))), 1, 1)
    trainable = torch.ones(num_sequences, SEQUENCE, dtype=torch.bool)
    trainable[:, 0] = False
    acts = {SITE: whole_NSD[:num_sequences]}
    chunk_mib = _CHUNK_SEQUENCES * SEQUENCE * d_in * 2 / 2**20
    sizes = {"chunk_mib": chunk_mib, "shard_mib": chunk_mib}
    write_store(path, acts, trainable=trainable, held_out=_HELD_OUT, **sizes)
    return StoredActivations(open_store(path))


@torch.no_grad()
def make_coder(kind: str, num_latents: int, d_in: int) -> Coder:
    """A coder of which as many latents fire on a token as in the other benchmarks."""
    chosen = kind_named(kind)
    told = {"k": K} if issubclass(chosen, KSparse) else {"initial_l0": L0}
    config = chosen(num_latents=num_latents, **told)
    coder = Coder(config, d_in, d_in, device=DEVICE).eval().requires_grad_(False)
    x_BD = activations(d_in, _SAMPLE)[0]
    initialise(coder, 0, x_BD, x_BD)
    if kind == "batchtopk":
        coder.threshold.fill_(threshold_for(coder.pre_activations(x_BD), K))
    coder.encoder()
    return coder


def parts(source: StoredActivations) -> Iterator[tuple[Tensor, Tensor]]:
    """What is evaluated at once, as `evaluate` cuts it: activations and mask [N, S, …]."""
    for batch in source.held_out([SITE], HeldOutPart(batch_sequences=_BATCH // SEQUENCE)):
        yield batch.acts[SITE], batch.trainable


@torch.no_grad()
def bare(source: StoredActivations, coder: Coder) -> float:
    """Read and encode; returns how many entries were active."""
    active = 0
    for x_NSD, trainable_NS in parts(source):
        _, acts_N = coder.encode_sparse(x_NSD[trainable_NS].to(DEVICE, torch.float32))
        active += len(acts_N)
    return active


def evaluation(source: StoredActivations, coder: Coder, mesh: Mesh) -> float:
    """All measures; returns how many entries were active."""
    subject = Subject(coder=coder, mesh=mesh, num_positions=source.sequence_length)
    taken = [kind(subject) for kind in measures().values() if kind.needs is Needs.CODES]
    for x_NSD, trainable_NS in parts(source):
        seen = run_coder(coder, x_NSD, x_NSD, trainable_NS)
        for measure in taken:
            measure.update(seen)
    figures = [measure.result() for measure in taken]
    return round(figures[0]["l0"] * figures[0]["tokens"])


def timed(run: Pass) -> tuple[float, float, float]:
    """(seconds, processor seconds, what it returns)."""
    synchronise()
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    synchronise()
    return time.perf_counter() - clock, time.process_time() - processor, result


def compared(source: StoredActivations, coder: Coder, mesh: Mesh, rounds: int) -> dict[str, Any]:
    """Medians of both passes and of their ratios, by the clock and in processor time."""
    passes: dict[str, Pass] = {
        "bare": lambda: bare(source, coder),
        "evaluation": lambda: evaluation(source, coder, mesh),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name in sorted(passes, reverse=bool(number % 2)):
            found[name].append(timed(passes[name]))
    kept = {name: times[1:] for name, times in found.items()}  # the first round warms up
    if len({result for times in kept.values() for *_, result in times}) > 1:
        raise RuntimeError("both passes must see the same entries")
    figures: dict[str, Any] = {"active_entries": kept["bare"][0][2]}
    for place, unit in enumerate(("seconds", "processor_seconds")):
        figures[unit] = {n: statistics.median(t[place] for t in ts) for n, ts in kept.items()}
        ratios = [e[place] / b[place] for b, e in zip(*kept.values(), strict=True)]
        figures[f"ratio_{unit}"] = statistics.median(ratios)
    return figures


def run(
    kinds: tuple[str, ...] = tuple(kind_names()),
    tokens: int = 65_536,
    num_latents: int = 65_536,
    d_in: int = 768,
    rounds: int = 5,
    folder: Path = TEMPORARY,
) -> Iterator[Figure]:
    """Seconds and processor seconds, floors those of reading and encoding.

    Args:
        kinds: of coders.
        tokens: held out, about so many.
        num_latents: F.
        d_in: D.
        rounds: whose median counts.
        folder: where the store is written for the while; 1 GB.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own, start_world() as world:
        mesh, source = make_mesh(world, 1, {}), make_source(Path(own) / "store", tokens, d_in)
        for kind in kinds:
            coder = make_coder(kind, num_latents, d_in)
            found = compared(source, coder, mesh, rounds)
            more = {
                "active_entries": found["active_entries"],
                "tokens": source.num_held_out * SEQUENCE,
            }
            for unit, title in (("seconds", "s"), ("processor_seconds", "processor s")):
                name = f"all measures without an LM, {kind}, {num_latents:,} latents ({title})"
                own_ratio = {"ratio": found[f"ratio_{unit}"]}
                times = found[unit]
                yield Figure(
                    name,
                    times["evaluation"],
                    title,
                    times["bare"],
                    target="≤ 2 ×",
                    more=more | own_ratio,
                )
