"""The comparison of `quality` on activations of Gemma 3 270M: autoencoders and transcoders.

Special tokens are left out, and no outlier is, as is a store's default.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.activations import REAL_MLP, REAL_SITE, REAL_STORE
from benchmarks.figures import Figure, LeftOut
from benchmarks.quality import KEPT, KINDS, PYTHON, Asked, compare, write_table
from benchmarks.steps import PEERS
from benchmarks.trained.task import AUTOENCODER, SKIP, TRANSCODER

_TRANSCODERS = (f"topk_{TRANSCODER}", f"topk_{SKIP}", f"jumprelu_{TRANSCODER}")
_SITES = {AUTOENCODER: (REAL_SITE,), TRANSCODER: REAL_MLP, SKIP: REAL_MLP}
SMOKE = {
    "kinds": ("topk", f"topk_{SKIP}"),
    "precisions": ("float32",),
    "peers": (),
    "seeds": 1,
    "tokens": 8192,
    "kept": Path(os.devnull),
}


def run(
    kinds: tuple[str, ...] = (*KINDS, *_TRANSCODERS),
    precisions: tuple[str, ...] = ("bfloat16",),
    peers: tuple[str, ...] = tuple(PEERS),
    seeds: int = 3,
    tokens: int = 2_048_000,
    minutes: float = math.inf,
    store: Path = REAL_STORE,
    peers_python: Path = PYTHON,
    kept: Path = KEPT / "quality_real.jsonl",
) -> Iterator[Figure | LeftOut]:
    """As of `quality`; the store is harvested where it is not there."""
    asked = Asked(kinds, precisions, peers, seeds, tokens, minutes)
    yield from compare("real", _SITES, asked, store, peers_python, kept)


def draw(figures: list[Figure], folder: Path) -> list[str]:
    """Write a table of all that was measured."""
    return write_table(figures, folder / "quality_real.md")
