"""Pages of latents: what they take to write, how large they are, how soon they open in a browser.

The latents are made up, each as large as `sae-dist latents` writes it by default: 45 examples of 32
tokens, of which every eighth has an activation. Tokens are drawn by Zipf's law.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, LeftOut
from benchmarks.process import call
from sae_dist.common.memory import peak_bytes
from sae_dist.latents import About, RungAbout
from sae_dist.latents.folder import (
    ABOUT,
    FOLDER,
    TOKENS,
    TRAINABLE,
    VERSION,
    range_file,
    write_about,
    write_tensors,
)
from sae_dist.pages import write
from tests.report.browser import CHROMIUM, Browser

SMOKE = {"widths": (512,), "num_sequences": 64, "length": 64, "rounds": 1}
_VOCABULARY, _RANGE, _EXAMPLES, _STRONGEST, _WINDOW = 50_257, 4096, 45, 20, 32
_RUNG = "made-up"


def make_up(run: Path, num_latents: int, num_sequences: int, length: int) -> None:
    """Write the latents of one rung, range by range."""
    rng, folder = np.random.default_rng(0), run / FOLDER
    ids_NS = np.minimum(rng.zipf(1.2, (num_sequences, length)) - 1, _VOCABULARY - 1)
    folder.mkdir(parents=True)
    np.save(folder / TOKENS, ids_NS.astype(np.int32))
    np.save(folder / TRAINABLE, ids_NS >= 0)
    edges = [*range(0, num_latents, _RANGE), num_latents]
    for start, stop in pairwise(edges):
        columns = _columns(rng, stop - start, num_latents, num_sequences, length)
        write_tensors(folder / _RUNG / range_file(start, stop), columns)
    place = {"site": "resid_post.0", "target": "resid_post.0", "d_in": 2304, "d_out": 2304}
    about = {"version": VERSION, "rung": _RUNG, "coder": "", "kind": "topk", "form": "autoencoder"}
    sizes = {"l0": 32.0, "window": _WINDOW, "num_quantiles": 5, "edges": edges}
    rung = RungAbout(**about, **place, **sizes, num_latents=num_latents)
    tokens = {"num_sequences": num_sequences, "sequence_length": length, "num_tokens": ids_NS.size}
    write_about(
        folder / ABOUT,
        About(version=VERSION, run=run.name, source={}, lm={"name": "made up"}, **tokens),
    )
    write_about(folder / _RUNG / ABOUT, rung)


def _columns(
    rng: np.random.Generator, n: int, num_latents: int, num_sequences: int, length: int
) -> dict[str, np.ndarray]:
    shape = (n, _EXAMPLES)
    starts = rng.integers(0, num_sequences, shape) * length
    starts += rng.integers(0, max(1, length - _WINDOW), shape)
    values = rng.exponential(1, (*shape, _WINDOW)).astype(np.float32)
    values *= rng.integers(0, 8, values.shape) == 0
    values[..., _WINDOW // 2] = 9
    quantiles = 1 + np.arange(_EXAMPLES - _STRONGEST) // 5
    groups = np.r_[np.zeros(_STRONGEST, np.int8), quantiles].astype(np.int8)
    tokens = rng.integers(0, _VOCABULARY, (2, n, 10)).astype(np.int32)
    logits = np.sort(rng.standard_normal((2, n, 10)).astype(np.float32))[..., ::-1]
    near = rng.integers(0, num_latents, (2, n, 10)).astype(np.int32)
    return {
        "fired": rng.integers(0, num_sequences * length // 8, n),
        "sequences": rng.integers(0, num_sequences, n),
        "max": np.full(n, 9, np.float32),
        "sum": rng.random(n),
        "histogram": rng.integers(0, 1000, (n, 40)),
        "examples": starts + _WINDOW // 2,
        "groups": np.broadcast_to(groups, shape),
        "starts": starts,
        "values": values,
        "top_tokens": tokens[0],
        "top_logits": logits[0],
        "bottom_tokens": tokens[1],
        "bottom_logits": -logits[1],
        "logits_histogram": rng.integers(0, 1000, (n, 40)),
        "logits_range": np.broadcast_to(np.float32([-2, 2]), (n, 2)),
        "nearest": near[0],
        "cosine": np.broadcast_to(np.linspace(0.8, 0.1, 10, dtype=np.float32), (n, 10)),
        "cofiring": near[1],
        "together": np.broadcast_to(np.linspace(0.5, 0.1, 10, dtype=np.float32), (n, 10)),
    }


def write_pages(run: str) -> dict[str, Any]:
    """Seconds and the most memory that writing takes, in this process."""
    vocabulary = [f" token{i}".encode() for i in range(_VOCABULARY)]
    started = time.monotonic()
    write(Path(run), vocabulary)
    seconds = time.monotonic() - started
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


def run(
    widths: tuple[int, ...] = (65_536, 1_048_576),
    num_sequences: int = 2048,
    length: int = 1024,
    rounds: int = 5,
) -> Iterator[Figure | LeftOut]:
    """Of rungs of these widths: bytes and time of writing, seconds until the browser shows them."""
    for num_latents in widths:
        with tempfile.TemporaryDirectory() as folder:
            path, of = Path(folder) / "run", f"{num_latents:,} latents"
            make_up(path, num_latents, num_sequences, length)
            took = call("benchmarks.pages:write_pages", {"run": str(path)}, 7200)
            if isinstance(took, str):
                yield LeftOut(f"pages of {of}", took)
                continue
            files = [file for file in (path / FOLDER / "pages").rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            yield Figure(f"writing pages of {of}", took["seconds"], "s", more=took)
            yield Figure(
                f"pages of {of}", size / 1e9, "GB", more={"files": len(files), "bytes": size}
            )
            if CHROMIUM is None:
                yield LeftOut(f"opening {of}", "no Chromium here")
                continue
            yield from _opened(path / FOLDER / "index.html", of, num_latents, rounds)


def _opened(page: Path, of: str, num_latents: int, rounds: int) -> Iterator[Figure]:
    one = f"#{_RUNG}/{num_latents // 3}"
    text = f"#{_RUNG}?by=text&q=token7%20token"
    named = {"the table": ("", ".row"), "a latent": (one, ".example"), "a text": (text, ".note")}
    for name, (fragment, shown) in named.items():
        seconds = [_seconds(page.as_uri() + fragment, shown) for _ in range(rounds)]
        target = "≤ 1 s" if (name, num_latents) == ("the table", 65_536) else ""
        yield Figure(
            f"opening {name}, {of}",
            statistics.median(seconds),
            "s",
            target=target,
            more={"seconds": seconds},
        )


def _seconds(address: str, shown: str) -> float:
    """From asking for an address until something is shown, in a browser that has seen nothing."""
    with Browser() as browser:
        browser.open(address, 1280, 800)
        is_shown = f"document.querySelector({shown!r}) ? performance.now() : 0"
        return _waited(lambda: float(browser.value(is_shown))) / 1000


def _waited(value: Callable[[], float], seconds: float = 60) -> float:
    deadline = time.monotonic() + seconds
    while not (found := value()):
        if time.monotonic() > deadline:
            raise TimeoutError("the page shows nothing")
        time.sleep(0.01)
    return found
