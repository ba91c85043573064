"""`sae-dist latents` beside the least it could do: read the held-out tokens and encode them.

A store of made-up activations is written, read, and removed, beside a coder of random weights and a
language model of one layer, whose vocabulary is GPT-2's. `bare` streams and encodes; `watched` is
all that the command does after it is loaded, its files on disk and synced included. Figures are
medians over rounds, each of which takes both.
"""

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from transformers import AutoModelForCausalLM, GPT2Config

from benchmarks.evaluate import SITE, bare, make_coder, make_source, timed
from benchmarks.figures import Figure
from benchmarks.timing import DEVICE, TEMPORARY
from sae_dist.coders import Coder, save_coder
from sae_dist.evaluate import finished
from sae_dist.latents import Latents, Unembed, WatchConfig, watch
from sae_dist.latents.folder import FOLDER
from sae_dist.lm import unembeddings
from sae_dist.parallel import World, start_world
from sae_dist.stream import StoredActivations

_RUNG = "rung"
SMOKE = {"tokens": 12_000, "num_latents": 256, "d_in": 16, "rounds": 1, "vocabulary": 64}


def make_run(run: Path, coder: Coder) -> Path:
    """A finished run of one coder."""
    about = {"site": SITE, "target": SITE}
    save_coder(run / "coders" / _RUNG, coder, dict(coder.state_dict()), about)
    return run


def make_lm(d_in: int, vocabulary: int) -> Unembed:
    """The logits of a language model of random weights."""
    config = GPT2Config(n_embd=d_in, n_layer=1, n_head=1, vocab_size=vocabulary)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False).to(DEVICE)
    return partial(unembeddings, model)


def watched(run: Path, source: StoredActivations, unembed: Unembed, world: World) -> float:
    """All of the command; returns how many entries were active."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    watch(finished(run, world.device), source, unembed, WatchConfig(max_sequences=None), world)
    return float(Latents(run, _RUNG).column("fired").sum())


def run(
    kinds: tuple[str, ...] = ("topk",),
    tokens: int = 1_000_000,
    num_latents: int = 16_384,
    d_in: int = 768,
    rounds: int = 1,
    vocabulary: int = 50_257,
    folder: Path = TEMPORARY,
) -> Iterator[Figure]:
    """Seconds and processor seconds, floors those of reading and encoding.

    Args:
        kinds: of coders.
        tokens: held out, about so many.
        num_latents: F.
        d_in: D.
        rounds: whose median counts.
        vocabulary: of the language model.
        folder: where all is written for the while; 4 GB.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own, start_world() as world:
        source, unembed = make_source(Path(own) / "store", tokens, d_in), make_lm(d_in, vocabulary)
        for kind in kinds:
            coder = make_coder(kind, num_latents, d_in)
            made = make_run(Path(own) / kind, coder)
            passes = partial(bare, source, coder), partial(watched, made, source, unembed, world)
            found = [[timed(one) for one in passes] for _ in range(rounds)]
            if any(one[2] != other[2] for one, other in found):
                raise RuntimeError("both must see the same entries")
            for place, unit in enumerate(("s", "processor s")):
                floor, value = (statistics.median(r[p][place] for r in found) for p in (0, 1))
                ratio = statistics.median(r[1][place] / r[0][place] for r in found)
                sizes = f"{num_latents:,} latents, {tokens:,} tokens"
                yield Figure(
                    f"sae-dist latents, {kind}, {sizes} ({unit})",
                    value,
                    unit,
                    floor,
                    target="≤ 1.5 ×",
                    more={"ratio": ratio, "active_entries": found[0][0][2]},
                )
