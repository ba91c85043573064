"""What is known of each latent of a run's coders, as files, and how they are read.

    runs/r/latents/
      about.json                      whose sequences these are, and how many
      tokens.npy, trainable.npy       int32 and bool [sequences, S]
      RUNG/about.json                 the coder, and how its latents are cut into ranges
      RUNG/START-STOP.safetensors     `COLUMNS`, of the latents from START to before STOP
      RUNG/fired/START-STOP.safetensors   all their activations: `offsets` [n + 1], `tokens` [M],
                                      `values` [M], latent by latent, tokens rising
      RUNG/beside/OTHER.safetensors   `nearest` [F, 3], `cosine` [F, 3]: of each latent those of
                                      another rung of the same site whose decoder rows are nearest

A token's number is its sequence times S plus its position. Latents and tokens that are missing from
a list (it is shorter) are -1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from sae_dist.common.errors import UserError
from sae_dist.common.files import write_atomic, write_json

FOLDER, ABOUT, TOKENS, TRAINABLE = "latents", "about.json", "tokens.npy", "trainable.npy"
VERSION = 1
COLUMNS = {
    "fired": "on how many tokens it fires, int64 [n]",
    "sequences": "in how many sequences, int64 [n]",
    "max": "its largest activation, float32 [n]; 0 if it never fires",
    "sum": "the sum of its activations, float64 [n]",
    "histogram": "of its activations, in equal bins from 0 to `max`, int64 [n, BINS]",
    "examples": "the token where it fires most, of each example, int64 [n, X]",
    "groups": "of each example: 0 the strongest of all, q > 0 drawn from the q-th quantile from "
    "above, int8 [n, X]",
    "starts": "the first token of each example's window, in the same sequence, int64 [n, X]",
    "values": "its activation on each token of the window, float32 [n, X, window]",
    "top_tokens": "the vocabulary's tokens whose logits it raises most, int32 [n, L]",
    "top_logits": "by how much at an activation of 1, float32 [n, L]",
    "bottom_tokens": "and lowers most, int32 [n, L]",
    "bottom_logits": "by how much, float32 [n, L]",
    "logits_histogram": "of its effect on all logits, in equal bins, int64 [n, BINS]",
    "logits_range": "the least and the greatest effect, float32 [n, 2]",
    "nearest": "the rung's latents whose decoder rows are nearest, int32 [n, K]",
    "cosine": "their cosine, float32 [n, K]",
    "cofiring": "the latents that fire most with it, for how often they fire, int32 [n, K]",
    "together": "the correlation (φ) of firing, float32 [n, K]",
}
"""The arrays of a range of n latents. A run without a language model has none of the logits."""


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sequences the latents of a run were watched on.

    `lm` is what the store says of the language model (name, commit), None where there is none.
    """

    version: int
    run: str
    source: dict[str, Any]
    lm: dict[str, Any] | None
    num_sequences: int
    sequence_length: int
    num_tokens: int  # trainable ones


class RungAbout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose latents these are: the coder, its place, and how its latents are cut.

    `settings` are those of `sae-dist latents` that change what is found.
    """

    version: int
    rung: str
    coder: str  # the fingerprint of its files
    kind: str
    form: str
    site: str
    target: str
    num_latents: int
    d_in: int
    d_out: int
    l0: float
    window: int
    num_quantiles: int
    edges: list[int]  # of the ranges: 0, …, num_latents
    settings: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Example:
    """A window of one sequence around a token where a latent fires.

    Attributes:
        group: 0 for the strongest of all, q for one drawn from the q-th quantile from above.
        sequence, position: of the peak.
        start: the window's first position.
        token_ids: int32 [w], `values` float32 [w]: w may be short at a sequence's end.
    """

    group: int
    sequence: int
    position: int
    start: int
    token_ids: np.ndarray
    values: np.ndarray


class Latents:
    """The latents of one rung, read as they are asked for.

    Raises:
        UserError: nothing is there, or of another version.
    """

    def __init__(self, run: Path, rung: str) -> None:
        self.run, self.folder = run, run / FOLDER / rung
        self.about = _read(self.folder.parent / ABOUT, About, run)
        self.rung = _read(self.folder / ABOUT, RungAbout, run)

    @cached_property
    def token_ids_NS(self) -> np.ndarray:
        """The sequences' tokens, int32."""
        return np.load(self.folder.parent / TOKENS, mmap_mode="r")

    @cached_property
    def trainable_NS(self) -> np.ndarray:
        """Which of them a coder is given, bool."""
        return np.load(self.folder.parent / TRAINABLE, mmap_mode="r")

    @property
    def frequency_F(self) -> np.ndarray:
        """The share of trainable tokens on which each latent fires, float64."""
        return self.column("fired") / max(1, self.about.num_tokens)

    def ranges(self) -> Iterator[range]:
        """How the latents are cut into files."""
        edges = self.rung.edges
        yield from map(range, edges, edges[1:])

    def has(self, name: str) -> bool:
        """Whether a column was written."""
        return name in self._file(0)

    def column(self, name: str, latents: range | None = None) -> np.ndarray:
        """One of `COLUMNS` of all latents, or of one of `ranges`."""
        asked = [latents] if latents is not None else self.ranges()
        return np.concatenate([self._file(r.start)[name] for r in asked])

    def row(self, name: str, latent: int) -> np.ndarray:
        """One of `COLUMNS` of one latent."""
        start = self._start(latent)
        return self._file(start)[name][latent - start]

    def examples(self, latent: int) -> list[Example]:
        """Its examples, the strongest first, then quantile by quantile from above."""
        length = self.about.sequence_length
        peaks, groups, starts, values = (
            self.row(name, latent) for name in ("examples", "groups", "starts", "values")
        )
        found = []
        for peak, group, first, value in zip(peaks, groups, starts, values, strict=True):
            if peak < 0:
                continue
            sequence, start = divmod(int(first), length)
            ids = self.token_ids_NS[sequence, start : start + self.rung.window]
            position = int(peak) % length
            found.append(Example(int(group), sequence, position, start, ids, value[: len(ids)]))
        return found

    def fired(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """All tokens on which it fires, rising, int64 [m], and its activations, float32 [m]."""
        start = self._start(latent)
        stop = next(r.stop for r in self.ranges() if r.start == start)
        file = self.folder / "fired" / range_file(start, stop)
        with safe_open(file, "numpy") as found:
            at = found.get_slice("offsets")[latent - start : latent - start + 2]
            own = slice(int(at[0]), int(at[1]))
            return read_slice(found, "tokens", own), read_slice(found, "values", own)

    def firings(self, latents: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of one of `ranges`, latent by latent: where each begins, int64 [n + 1], all
        tokens, int64 [M], and activations, float32 [M].
        """
        found = load_file(self.folder / "fired" / range_file(latents.start, latents.stop))
        return found["offsets"], found["tokens"], found["values"]

    def beside(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By other rung: of each latent the nearest there, int32 [F, 3], and cosines [F, 3]."""
        found = {}
        for file in sorted(self.folder.glob("beside/*.safetensors")):
            with safe_open(file, "numpy") as tensors:
                found[file.stem] = tensors.get_tensor("nearest"), tensors.get_tensor("cosine")
        return found

    def _start(self, latent: int) -> int:
        if not 0 <= latent < self.rung.num_latents:
            raise UserError(
                f"latent {latent}; expected one of {self.rung.rung}'s {self.rung.num_latents}, "
                "counted from 0; choose another"
            )
        return next(r.start for r in self.ranges() if latent in r)

    @lru_cache(maxsize=2)  # noqa: B019 (a reader lives as long as its command)
    def _file(self, start: int) -> dict[str, np.ndarray]:
        stop = next(r.stop for r in self.ranges() if r.start == start)
        with safe_open(self.folder / range_file(start, stop), "numpy") as found:
            return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118


def rungs_with_latents(run: Path) -> list[str]:
    """The rungs of a run whose latents are all there, by name."""
    return sorted(path.parent.name for path in (run / FOLDER).glob(f"*/{ABOUT}"))


def range_file(start: int, stop: int) -> str:
    """The name of the file of a range of latents."""
    return f"{start:07d}-{stop:07d}.safetensors"


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a file of arrays, all or nothing, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))


def read_slice(file: Any, name: str, own: slice) -> np.ndarray:
    """A part of an opened file's array; none of it, too, which safetensors refuses at its end."""
    array = file.get_slice(name)
    if own.start < own.stop:
        return np.asarray(array[own])
    return np.asarray(array[0:0] if array.get_shape()[0] else file.get_tensor(name))


def write_about(path: Path, about: About | RungAbout) -> None:
    """Write what a folder is about; of a rung last, as readers trust what it says is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, msgspec.to_builtins(about))


def _read(path: Path, kind: type[Any], run: Path) -> Any:
    if not path.is_file():
        raise UserError(
            f"found no latents in {path.parent}; expected those of a run; sae-dist latents "
            f"run={run.name} makes them"
        )
    found = msgspec.json.decode(path.read_bytes())
    if found.get("version") != VERSION:
        raise UserError(
            f"{path} has version {found.get('version')}; expected {VERSION}; remove its folder, "
            f"and make it anew with sae-dist latents run={run.name}"
        )
    return msgspec.convert(found, kind)
