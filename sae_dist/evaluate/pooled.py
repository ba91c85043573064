"""Labelled texts as a coder sees them: means over the tokens of each text that are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from sae_dist.coders import Coder
from sae_dist.evaluate.labelled import LabelledTexts
from sae_dist.evaluate.measure import Subject
from sae_dist.kernels import SparsePattern, decode
from sae_dist.parallel import Axis

T = TypeVar("T")
Entries = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class SiteMeans:
    """The language model's own activations of texts at one site, each text's mean [N, D].

    What is found of them alone is found once for all coders.
    """

    mean_ND: Tensor
    _known: dict[Any, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """D."""
        return self.mean_ND.shape[1]

    @property
    def part(self) -> slice:
        """The columns that are here: all."""
        return slice(0, self.width)

    def times(self, rows_R: Tensor, W_DC: Tensor) -> Tensor:
        """Some texts' means times weights [R, C]."""
        return self.mean_ND[rows_R] @ W_DC

    def columns(self, columns_K: Tensor) -> Tensor:
        """Some columns of all texts [N, K]."""
        return self.mean_ND[:, columns_K]

    def difference(self, weight_N: Tensor) -> Tensor:
        """Sums of all texts by their weights [D], in float64."""
        return weight_N @ self.mean_ND.double()

    def largest(self, score_D: Tensor, k: int) -> Tensor:
        """The columns with the k largest scores, the first of equal ones first."""
        return score_D.argsort(descending=True, stable=True)[:k]

    def once(self, key: Any, find: Callable[[], T]) -> T:
        """What `find` gives, which is called for a key's first time only."""
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentMeans:
    """The latents of texts, each text's mean; of a slice of latents, and columns of the whole.

    Attributes:
        code, mean_N: the entries that are not zero, by text.
        coder: whose slice it is.
    """

    code: SparsePattern
    mean_N: Tensor
    coder: Coder
    axis: Axis = field(default_factory=Axis)

    @property
    def width(self) -> int:
        """F, of all slices."""
        return self.coder.config.num_latents

    @property
    def part(self) -> slice:
        """The latents that are here."""
        return slice(self.coder.latents.start, self.coder.latents.stop)

    def times(self, rows_R: Tensor, W_FC: Tensor) -> Tensor:
        """Some texts' means times weights of this slice, over all slices [R, C]."""
        code, mean_n = self.of(rows_R)
        return self.coder.collectives.sum_latents(decode(mean_n, W_FC, code))

    def of(self, rows_R: Tensor) -> tuple[SparsePattern, Tensor]:
        """The entries of some texts."""
        count_R, start_R = self.code.offsets_B.diff()[rows_R], self.code.offsets_B[rows_R]
        offsets_R = pad(count_R.cumsum(0), (1, 0))
        place_n = torch.arange(int(offsets_R[-1]), device=rows_R.device)
        place_n += (start_R - offsets_R[:-1]).repeat_interleave(count_R)
        latents_n = self.code.latents_N[place_n]
        return SparsePattern(offsets_R, latents_n, self.code.num_latents), self.mean_N[place_n]

    def columns(self, columns_K: Tensor) -> Tensor:
        """The means of some latents, wherever they are, of all texts [N, K]."""
        place_F = torch.full((self.width,), -1, device=columns_K.device)
        place_F[columns_K] = torch.arange(len(columns_K), device=columns_K.device)
        place_N = place_F[self.part][self.code.latents_N]
        kept_n = (place_N >= 0).nonzero().flatten()
        found_NK = self.mean_N.new_zeros(len(self.code.offsets_B) - 1, len(columns_K))
        found_NK[self.code.rows_N[kept_n], place_N[kept_n]] = self.mean_N[kept_n]
        return self.axis.all_reduce(found_NK)

    def difference(self, weight_N: Tensor) -> Tensor:
        """Sums of all texts by their weights, of this slice [F], in float64."""
        sums_F = weight_N.new_zeros(self.code.num_latents)
        weighted_n = self.mean_N.double() * weight_N[self.code.rows_N]
        return sums_F.index_add_(0, self.code.latents_N, weighted_n)

    def largest(self, score_F: Tensor, k: int) -> Tensor:
        """The latents, of all slices, with the k largest scores, the first of equal ones first."""
        best_k = score_F.argsort(descending=True, stable=True)[:k]
        latents = self.axis.all_gather(best_k + self.coder.latents.start)
        scores = self.axis.all_gather(score_F[best_k])
        return latents[scores.argsort(descending=True, stable=True)[:k]]


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledTexts:
    """What a measure of labelled texts is given: one data set, as one coder sees it.

    Attributes:
        x, y: what the coder reads and what it reconstructs; an autoencoder's are one.
        latents: what it makes of x.
    """

    texts: LabelledTexts
    x: SiteMeans
    y: SiteMeans
    latents: LatentMeans


def pool(
    texts: LabelledTexts,
    subjects: Sequence[Subject],
    capture: Callable[[Tensor], dict[str, Tensor]],
    batch_texts: int,
    bar: tqdm,
) -> list[PooledTexts]:
    """Of each coder what it makes of the texts; called by all processes together.

    Each part of the mesh' data axis takes its share of the texts, and all get all.
    """
    data, device = subjects[0].mesh.data, subjects[0].device
    widths = {s.site: s.coder.d_in for s in subjects} | {s.target: s.coder.d_out for s in subjects}
    means = {site: [torch.zeros(0, D, device=device)] for site, D in widths.items()}
    found: list[list[Entries]] = [[] for _ in subjects]
    own_n = torch.arange(len(texts))[data.index :: data.size]
    for rows_b in own_n.split(batch_texts) if len(own_n) else ():
        ids_bS, read_bS = (v[rows_b].to(device) for v in (texts.ids_NS, texts.read_NS))
        acts = capture(ids_bS)
        for site, parts in means.items():
            parts.append(_means(acts[site], read_bS))
        for subject, entries in zip(subjects, found, strict=True):
            rows, latents, mean = latent_means(subject.coder, acts[subject.site], read_bS)
            entries.append((rows_b.to(device)[rows], latents, mean))
        bar.update(len(rows_b) * data.size)
    order_N = data.all_gather_uneven(own_n.to(device)).argsort()
    at_site = {
        site: SiteMeans(data.all_gather_uneven(torch.cat(parts))[order_N])
        for site, parts in means.items()
    }
    return [
        PooledTexts(
            texts=texts,
            x=at_site[subject.site],
            y=at_site[subject.target],
            latents=_gathered(entries, len(texts), subject),
        )
        for subject, entries in zip(subjects, found, strict=True)
    ]


@torch.no_grad()
def latent_means(coder: Coder, x_NSD: Tensor, read_NS: Tensor) -> Entries:
    """Each text's mean over the tokens that are read, of this slice's latents that are not zero.

    Returns:
        text, latent and mean of each entry, text by text.
    """
    text_B = read_NS.nonzero(as_tuple=True)[0]
    code, acts_N = coder.encode_sparse(x_NSD[read_NS].to(coder.W_enc.dtype))
    code, acts_N = code.keep(acts_N != 0, acts_N)
    key_N = text_B[code.rows_N] * code.num_latents + code.latents_N
    key_n, place_N = key_N.unique(return_inverse=True)
    sums_n = torch.zeros(len(key_n), dtype=torch.float64, device=key_n.device)
    sums_n.index_add_(0, place_N, acts_N.double())
    text_n = key_n // code.num_latents
    mean_n = sums_n / read_NS.sum(1)[text_n]
    return text_n, key_n % code.num_latents, mean_n.float()


def _means(acts_NSD: Tensor, read_NS: Tensor) -> Tensor:
    """Over the tokens that are read [N, D]."""
    weight_NS = read_NS.double() / read_NS.sum(1, keepdim=True)
    return torch.bmm(weight_NS[:, None], acts_NSD.double())[:, 0].float()


def _gathered(parts: list[Entries], num_texts: int, subject: Subject) -> LatentMeans:
    coder, device = subject.coder, subject.device
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    parts = [(nothing, nothing, torch.zeros(0, device=device)), *parts]
    gather = subject.mesh.data.all_gather_uneven
    text_N, latent_N, mean_N = (gather(torch.cat(own)) for own in zip(*parts, strict=True))
    num_latents = len(coder.latents)
    order_N = (text_N * num_latents + latent_N).argsort()
    code = SparsePattern.from_rows(text_N[order_N], latent_N[order_N], num_texts, num_latents)
    return LatentMeans(code=code, mean_N=mean_N[order_N], coder=coder, axis=subject.mesh.latent)
