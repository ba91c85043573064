"""The activations of a rung's latents, part by part of the sequences, until they are gathered.

    RUNG/parts/of.json                   whose activations these are
    RUNG/parts/NUMBER-START-STOP.safetensors
        offsets [n + 1], tokens [M], acts [M]   by latent, from START to before STOP, tokens rising
        code_offsets [T + 1], latents [M]       the same by token; numbers of latents are the rung's

NUMBER counts parts of `sequences` sequences; tokens count from the part's first one. All integers
are int32. A part is written by each slice of the latents, and is there once all its slices are.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from sae_dist.kernels import SparsePattern
from sae_dist.latents.folder import read_slice, write_tensors

PARTS = "parts"
Code = tuple[Tensor, SparsePattern, Tensor]
"""Of some tokens: their numbers in the part [B], and the pattern and the values of their code."""


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """All activations of n latents, latent by latent, tokens rising.

    `offsets` int64 [n + 1], `tokens_M` int64 [M], `acts_M` float32 [M].
    """

    offsets: Tensor
    tokens_M: Tensor
    acts_M: Tensor

    @property
    def counts_n(self) -> Tensor:
        """On how many tokens each latent fires."""
        return self.offsets.diff()

    def to(self, device: torch.device) -> "Entries":
        """The same elsewhere."""
        return Entries(*(v.to(device) for v in (self.offsets, self.tokens_M, self.acts_M)))

    @property
    def latents_M(self) -> Tensor:
        """Each entry's latent, counted from the first of these."""
        counts_n = self.counts_n
        numbers_n = torch.arange(len(counts_n), device=counts_n.device)
        return numbers_n.repeat_interleave(counts_n, output_size=len(self.tokens_M))


@dataclass(frozen=True)
class Parts:
    """The parts of a rung in `folder`, of `sequences` sequences of `length` tokens."""

    folder: Path
    num_latents: int
    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        """How many a part has; the last may have fewer."""
        return self.sequences * self.length

    def there(self) -> set[int]:
        """The numbers of those that are whole. What is there of others is removed."""
        found = set()
        for number, slices in self._slices().items():
            ends = [0, *(stop for _, stop, _ in slices)]
            if ends == [*(start for start, _, _ in slices), self.num_latents]:
                found.add(number)
            else:
                for *_, path in slices:
                    path.unlink()
        return found

    def write(self, number: int, num_tokens: int, first: int, codes: list[Code]) -> None:
        """Write a part's activations of a slice of the latents.

        Args:
            num_tokens: of the part.
            first: the slice's first latent.
            codes: of its tokens, which rise; they hold all latents of the slice.
        """
        num_held = codes[0][1].num_latents
        active = [(tokens_B, *code.keep(acts_N != 0, acts_N)) for tokens_B, code, acts_N in codes]
        tokens_M = torch.cat([tokens_B[code.rows_N] for tokens_B, code, _ in active])
        latents_M = torch.cat([code.latents_N for _, code, _ in active])
        acts_M = torch.cat([acts_N for *_, acts_N in active]).float()
        whole = SparsePattern.from_rows(tokens_M, latents_M, num_tokens, num_held)
        order_M, offsets = whole.by_latent
        tensors = {
            "offsets": offsets,
            "tokens": tokens_M[order_M],
            "code_offsets": whole.offsets_B,
            "latents": latents_M + first,
        }
        arrays = {name: one.int().cpu().numpy() for name, one in tensors.items()}
        path = self.folder / f"{number:06d}-{first:07d}-{first + num_held:07d}.safetensors"
        write_tensors(path, arrays | {"acts": acts_M[order_M].cpu().numpy()})

    def counts(self) -> np.ndarray:
        """On how many tokens each latent fires, int64 [F]."""
        counts_F = np.zeros(self.num_latents, np.int64)
        for _, start, stop, path in self._files:
            with safe_open(path, "numpy") as file:
                counts_F[start:stop] += np.diff(file.get_tensor("offsets"))
        return counts_F

    def read(self, latents: range) -> Entries:
        """All activations of some latents."""
        blocks = list(self._blocks(latents))
        counts_n = np.zeros(len(latents), np.int64)
        places = []  # of each block's latents, where in theirs the block begins
        for own, offsets, _, _, _ in blocks:
            places.append(counts_n[own].copy())
            counts_n[own] += np.diff(offsets)
        ends = np.concatenate([[0], np.cumsum(counts_n)])
        tokens_M, acts_M = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.float32)
        for place, (own, offsets, first_token, tokens, acts) in zip(places, blocks, strict=True):
            starts = ends[:-1][own] + place - (offsets[:-1] - offsets[0])
            to = np.repeat(starts, np.diff(offsets)) + np.arange(len(tokens))
            tokens_M[to] = tokens.astype(np.int64) + first_token
            acts_M[to] = acts
        return Entries(*map(torch.from_numpy, (ends, tokens_M, acts_M)))

    def _blocks(
        self, latents: range
    ) -> Iterator[tuple[slice, np.ndarray, int, np.ndarray, np.ndarray]]:
        """File by file, parts rising: which of the latents, where their entries begin, the part's
        first token, and the entries' tokens and values.
        """
        for number, start, stop, path in self._files:
            first, last = max(start, latents.start), min(stop, latents.stop)
            if first >= last:
                continue
            own = slice(first - latents.start, last - latents.start)
            with safe_open(path, "numpy") as file:
                offsets = file.get_slice("offsets")[first - start : last - start + 1]
                entries = slice(int(offsets[0]), int(offsets[-1]))
                tokens, acts = (read_slice(file, name, entries) for name in ("tokens", "acts"))
            yield own, offsets.astype(np.int64), number * self.tokens, tokens, acts

    def codes(self, tokens_M: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The latents that fire on some tokens, file by file.

        Args:
            tokens_M: their numbers, rising.

        Yields:
            which of the tokens [m], how many latents fire on each [m], and which, one after the
            other.
        """
        for number, _, _, path in self._files:
            begin = number * self.tokens
            first, last = np.searchsorted(tokens_M, (begin, begin + self.tokens))
            if first == last:
                continue
            with safe_open(path, "numpy") as file:
                offsets, latents = file.get_tensor("code_offsets"), file.get_tensor("latents")
            own_m = tokens_M[first:last] - begin
            starts_m = offsets[own_m].astype(np.int64)
            counts_m = offsets[own_m + 1] - starts_m
            ends_m = np.cumsum(counts_m)
            at = np.repeat(starts_m - ends_m + counts_m, counts_m) + np.arange(counts_m.sum())
            yield np.arange(first, last), counts_m, latents[at]

    @cached_property
    def _files(self) -> list[tuple[int, int, int, Path]]:
        """Number, first latent, stop and path of each, in order; asked for once all are there."""
        return [(number, *one) for number, slices in self._slices().items() for one in slices]

    def _slices(self) -> dict[int, list[tuple[int, int, Path]]]:
        found: dict[int, list[tuple[int, int, Path]]] = defaultdict(list)
        for path in sorted(self.folder.glob("*-*-*.safetensors")):
            number, start, stop = map(int, path.stem.split("-"))
            found[number].append((start, stop, path))
        return found
