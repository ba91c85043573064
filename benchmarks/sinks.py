"""Attention sinks and scale: norms of two real LMs by site and position, and what a small coder
gains or loses where long tokens are left out, inputs centred or normalised.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.activations import (
    REAL_MLP,
    REAL_SITE,
    REAL_STORE,
    SMOLLM2_MLP,
    SMOLLM2_SITES,
    SMOLLM2_STORE,
)
from benchmarks.figures import Figure, markdown, number
from benchmarks.measured import Activations, HeldOut, measured, subject_of
from benchmarks.trained.sae_dist import make_rung, take_steps
from benchmarks.trained.task import SETUPS, TRANSCODER, Task
from sae_dist import compose
from sae_dist.coders import Inputs
from sae_dist.lm import Capture, expand_sites, load_lm, resolve
from sae_dist.parallel import World, start_world
from sae_dist.text import documents, pack

LMS = ("smollm2_135m", "gemma_3_270m")
KINDS = ("topk", "jumprelu")
MAX_NORM = 8.0  # the quickstart's writer.max_norm
_FAMILIES = ("resid_post", "mlp_in", "mlp_out")
_EARLY = slice(1, 4)  # the positions after the first
_BATCH = 16
_SETUP = replace(SETUPS["real"], num_latents=1024, batch=1024)
_TABLE = "sinks.md"
_NORMS = (
    "LM | site | median norm | first position | positions 1 to 3 | longest of the rest | beyond 8"
)
_CODERS = "LM | site | coder | way | L0 | FVU | FVU of all tokens | dead"
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "max_norm=8": {},
    "b_dec at 0": {},
    "inputs=unit": {"inputs": Inputs.unit},
    "inputs=whitened": {"inputs": Inputs.whitened},
}
INPUTS_C = "target by its input's C"
SMOKE = {"parts": ("coders",), "kinds": ("topk",), "tokens": 4096}


class Place(NamedTuple):
    """A site of a store, whose it is, and the target where that is another."""

    lm: str
    store: Path
    sites: tuple[str, ...]

    @property
    def is_mlp(self) -> bool:
        """Whether transcoders are trained there, not autoencoders."""
        return len(self.sites) > 1


PLACES = [
    *(Place("smollm2_135m", SMOLLM2_STORE, (site,)) for site in reversed(SMOLLM2_SITES)),
    Place("smollm2_135m", SMOLLM2_STORE, SMOLLM2_MLP),
    Place("gemma_3_270m", REAL_STORE, (REAL_SITE,)),
    Place("gemma_3_270m", REAL_STORE, REAL_MLP),
]


def run(
    parts: tuple[str, ...] = ("norms", "coders"),
    lms: tuple[str, ...] = LMS,
    sequences: int = 64,
    kinds: tuple[str, ...] = KINDS,
    tokens: int = 200_000,
    store: Path = Path(),
) -> Iterator[Figure]:
    """The longest token that may be trained on over the median one, by site; then FVU by way.

    Args:
        parts: of both.
        lms: whose norms are taken, and whose coders are trained.
        sequences: of the text, to take norms from.
        kinds: of coders.
        tokens: that each coder is trained on.
        store: one whose `resid_post.9` coders are trained on, in place of the LMs', which are made.
    """
    if "norms" in parts:
        for lm in lms:
            yield from norms(lm, sequences)
    if "coders" in parts:
        places = [place for place in PLACES if place.lm in lms]
        if store != Path():
            places = [Place(store.name, store, sites) for sites in ((REAL_SITE,), REAL_MLP)]
        with start_world() as world:
            for place in places:
                yield from coders(place, kinds, tokens, world)


def norms(lm_name: str, sequences: int) -> Iterator[Figure]:
    """Norms at all layers, of the first sequences of the text in the public domain."""
    sites = ",".join(f"{family}.*" for family in _FAMILIES)
    told = [f"lm={lm_name}", "lm.dtype=fastest", "text=public_domain", f"sites=[{sites}]"]
    config = compose("harvest", [*told, "store=none", "tokens=1K"])
    lm = load_lm(config.lm, torch.device("cpu"))
    names = expand_sites(config.lm, config.sites)
    capture = Capture(lm.model, [resolve(lm.model, name) for name in names])
    num_tokens = sequences * config.text.sequence_length
    blocks = pack(documents(config.text), lm.tokenizer, config.text, num_tokens=num_tokens)
    norms_of: dict[str, list[Tensor]] = {name: [] for name in names}
    trainable = []
    for block in blocks:
        trainable.append(torch.from_numpy(block.trainable_NS))
        for ids_NS in torch.from_numpy(block.ids_NS).split(_BATCH):
            for name, x_NSD in capture(ids_NS).items():
                norms_of[name].append(x_NSD.float().norm(dim=2))
    trainable_NS = torch.cat(trainable)
    for name, parts in norms_of.items():
        found = by_position(torch.cat(parts), trainable_NS)
        what = f"{lm_name}, {name}: longest / median"
        yield Figure(what, found["longest"], "", more={"lm": lm_name, "site": name} | found)


def by_position(norms_NS: Tensor, trainable_NS: Tensor) -> dict[str, float]:
    """The median norm of the trainable tokens, and others in units of it: the median at the first
    position and at the next three, the longest trainable one; and the share of those that are
    beyond `MAX_NORM`.
    """
    rest = norms_NS[trainable_NS]
    median = rest.median()
    return {
        "median": float(median),
        "first": float(norms_NS[:, 0].median() / median),
        "early": float(norms_NS[:, _EARLY][trainable_NS[:, _EARLY]].median() / median),
        "longest": float(rest.max() / median),
        "beyond": float((rest > MAX_NORM * median).double().mean()),
    }


def coders(place: Place, kinds: Sequence[str], tokens: int, world: World) -> Iterator[Figure]:
    """FVU of small coders of a site, by kind and way, on the tokens that are no longer than
    `MAX_NORM` medians.
    """
    held_out, site = HeldOut(place.store, world), " → ".join(place.sites)
    with tempfile.TemporaryDirectory() as folder:
        given = Activations(held_out, place.sites, tokens, _SETUP.batch, Path(folder))
        for kind in kinds:
            name = f"{kind}_{TRANSCODER}" if place.is_mlp else kind
            for way in ("as it is", INPUTS_C) if place.is_mlp else WAYS:
                found = trained(name, way, given, world)
                about = {"lm": place.lm, "site": site, "kind": name, "way": way}
                what = f"{place.lm}, {site}, {name}, {way}: FVU"
                yield Figure(what, found["fvu"], "", more=about | found)


def trained(name: str, way: str, given: Activations, world: World) -> dict[str, float]:
    """What one coder is in the end, on the tokens that are not too long, and its FVU on all."""
    rows = load_file(given.path)
    x_ND = rows["train"]
    y_NE = rows.get("train_target", x_ND)
    if way == "max_norm=8":
        x_ND = y_NE = x_ND[is_short(x_ND)]
    scale, target_scale = (float(v.double().square().sum(1).mean().sqrt()) for v in (x_ND, y_NE))
    scales = (scale, scale) if way == INPUTS_C else (scale, target_scale)
    task = Task(name, "float32", float(_SETUP.k), _SETUP, x_ND, y_NE, *scales, Path(), 0)
    rung = make_rung(task, world, **WAYS.get(way, {}))
    if way == "b_dec at 0":
        with torch.no_grad():
            rung.coder.b_dec.zero_()
    take_steps(rung, task)
    subject, is_short_M = subject_of(rung.coder, scales, world), is_short(given.y_MD)
    found = measured(subject, given.x_MD[is_short_M], given.y_MD[is_short_M])
    return found | {"fvu_of_all": measured(subject, given.x_MD, given.y_MD)["fvu"]}


def is_short(x_ND: Tensor) -> Tensor:
    """Which rows are no longer than `MAX_NORM` times the median [N], as a store leaves them out."""
    norm_N = x_ND.float().norm(dim=1)
    return norm_N <= MAX_NORM * norm_N.median()


def draw(figures: list[Figure], folder: Path) -> list[str]:
    """Write two tables: of norms in units of the median, and of coders."""
    norm_rows, coder_rows = [], []
    for more in (figure.more for figure in figures):
        if "way" in more:
            cells = [number(more["l0"]), f"{more['fvu']:.4f}", f"{more['fvu_of_all']:.4f}"]
            cells.append(f"{100 * more['dead_share']:.1f} %")
            coder_rows.append([more["lm"], more["site"], more["kind"], more["way"], *cells])
        else:
            cells = [number(more[key]) for key in ("median", "first", "early", "longest")]
            cells.append(f"{100 * more['beyond']:.3g} %")
            norm_rows.append([more["lm"], more["site"], *cells])
    tables = [markdown(_NORMS, norm_rows), markdown(_CODERS, coder_rows)]
    (folder / _TABLE).write_text("\n".join(tables))
    return [_TABLE]
