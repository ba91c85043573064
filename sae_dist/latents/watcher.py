"""What the latents of a run's coders fire on: one pass over sequences, then ranges of latents."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_dist.checkpoint.ranks import on_every_rank, on_first_rank
from sae_dist.coders import Coder, Form, slice_of
from sae_dist.common.errors import UserError
from sae_dist.common.files import read_json, write_json
from sae_dist.common.groups import held_together, neighbours
from sae_dist.common.joint import is_joint, joined, parts_of, width_of
from sae_dist.common.log import log_info, progress
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.latents.cofiring import cofiring
from sae_dist.latents.columns import Columns, count, examples
from sae_dist.latents.config import WatchConfig
from sae_dist.latents.decoders import nearest
from sae_dist.latents.folder import (
    ABOUT,
    FOLDER,
    VERSION,
    About,
    RungAbout,
    range_file,
    write_about,
    write_tensors,
)
from sae_dist.latents.logits import logits
from sae_dist.latents.parts import PARTS, Code, Entries, Parts
from sae_dist.latents.sequences import Sequences, keep, origin, part_sequences
from sae_dist.latents.watchable import Watchable
from sae_dist.lm import Unembedding
from sae_dist.parallel import Mesh, World, make_mesh
from sae_dist.stream import HeldOutBatch, HeldOutPart

Unembed = Callable[[list[str]], dict[str, Unembedding | None]]
"""What a direction at each of some sites does to the logits."""
_OF = "of.json"
_ENTRY_BYTES = 96  # that an activation takes while a range is gathered
_MOST_LATENTS = 4096  # of a range
_BESIDE = 3  # latents of another rung
# Settings by which no latent is another one; how many sequences is said once for all rungs.
_NOT_OF = {"rungs", "parallel", "memory_gib", "batch_tokens", "max_sequences"}


def watch(
    coders: Sequence[Watchable],
    source: Sequences,
    unembed: Unembed | None,
    config: WatchConfig,
    world: World,
) -> list[str]:
    """Find out what the latents of one run's coders fire on; called by all processes together.

    Coders are held at once as `held_together` has them. What is there already, of the same coder,
    sequences and settings, is left; what was begun goes on, but for the part or the range that it
    was in.

    Args:
        source: whose held-out sequences are read.
        unembed: tells of the language model that the activations came from; None leaves the logits
            out.

    Returns:
        the rungs that were asked for, all of which are now there.

    Raises:
        UserError: an unknown rung, a mesh that does not fit, activations that are not theirs, or
            no token among them.
    """
    known = {coder.name: coder for coder in coders}
    asked = rungs_asked_for(config.rungs, list(known), of=str(coders[0].run))
    chosen = [known[name] for name in asked]
    _check(chosen, source, config, world)
    mesh = make_mesh(world, config.parallel.latent, {})
    _Watching(known, chosen, source, unembed, config, mesh, world.device).run_all()
    return asked


@dataclass(frozen=True)
class _Watching:
    known: dict[str, Watchable]
    chosen: list[Watchable]
    source: Sequences
    unembed: Unembed | None
    config: WatchConfig
    mesh: Mesh
    device: torch.device

    @property
    def folder(self) -> Path:
        return self.chosen[0].run / FOLDER

    def run_all(self) -> None:
        missing = on_first_rank(None, self._prepare)
        wanted = [coder for coder in self.chosen if coder.name in missing]
        for together in held_together(wanted, key=lambda one: one.num_latents):
            loaded = {one.name: one.load(self.mesh) for one in together}
            self._encode(together, loaded)
            for one in together:
                self._gather(one, loaded[one.name])
        self._compare()

    def _prepare(self) -> list[str]:
        """The rungs that are not there, or of something else, which then is removed."""
        path = self.folder / ABOUT
        if path.is_file() and read_json(path)["source"] != origin(self.source, self.config):
            log_info(f"{self.folder} is of other sequences: made anew")
            path.unlink()
            for rung in (one for one in self.folder.iterdir() if one.is_dir()):
                _clear(rung)
        return [coder.name for coder in self.chosen if not self._is_there(coder)]

    def _is_there(self, coder: Watchable) -> bool:
        """Whether all is; what was begun stays if it is of the same."""
        folder, wanted = self.folder / coder.name, self._of(coder)
        whole, begun = folder / ABOUT, folder / PARTS / _OF
        is_whole, found = whole.is_file(), dict[str, Any]()
        if is_whole:
            about = read_json(whole)
            found = {"coder": about["coder"], **about["settings"]}
        elif begun.is_file():
            found = read_json(begun)
        if found == wanted:
            if is_whole:  # else a start that was ended goes on
                shutil.rmtree(begun.parent, ignore_errors=True)
        else:
            if found:
                changed = [k for k in sorted({*wanted, *found}) if found.get(k) != wanted.get(k)]
                log_info(f"latents of {coder.name} are made anew: {', '.join(changed)} changed")
            _clear(folder)
            begun.parent.mkdir(parents=True)
            write_json(begun, wanted)
        return is_whole and found == wanted

    def _of(self, coder: Watchable) -> dict[str, Any]:
        return {"coder": coder.fingerprint, **self._settings}

    @property
    def _settings(self) -> dict[str, Any]:
        """Those by which other latents' files would be other ones."""
        names = {field.name for field in fields(WatchConfig)} - _NOT_OF
        return {name: getattr(self.config, name) for name in sorted(names)}

    # First the sequences pass the coders.

    @cached_property
    def _sequences(self) -> tuple[About, np.ndarray]:
        run = self.chosen[0].run
        return on_first_rank(None, lambda: keep(run, self.source, self.config))

    def _parts(self, coder: Watchable) -> Parts:
        return Parts(
            self.folder / coder.name / PARTS,
            coder.num_latents,
            part_sequences(self.source, self.config),
            self.source.sequence_length,
        )

    def _encode(self, coders: Sequence[Watchable], loaded: dict[str, Coder]) -> None:
        """Write the activations of coders that are held at once, part by part of the sequences."""
        (about, numbers_N), data = self._sequences, self.mesh.data
        parts = {coder.name: self._parts(coder) for coder in coders}
        done = on_first_rank(None, lambda: {name: own.there() for name, own in parts.items()})
        size, total = parts[coders[0].name].sequences, about.num_sequences
        of_all = frozenset.intersection(*map(frozenset, done.values()))
        part = HeldOutPart(data.index, data.size, total, size, of_all)
        sites = sorted({part for coder in coders for part in parts_of(coder.site)})
        with progress(total=total, desc="encode", unit="sequence") as bar:
            bar.update(min(len(of_all) * size, total))
            for batch in self.source.held_out(sites, part):
                number = int(np.searchsorted(numbers_N, int(batch.sequences[0]))) // size
                for one in coders:
                    if number not in done[one.name]:
                        own = loaded[one.name]
                        codes = list(self._codes(own, batch, one.site))
                        num_tokens = len(batch) * self.source.sequence_length
                        parts[one.name].write(number, num_tokens, own.latents.start, codes)
                bar.update(min(len(batch) * data.size, total - bar.n))
        on_every_rank(None, lambda: None)  # all have written theirs

    @torch.no_grad()
    def _codes(self, coder: Coder, batch: HeldOutBatch, site: str) -> Iterator[Code]:
        length = self.source.sequence_length
        size = max(1, self.config.batch_tokens // length)
        for first in range(0, len(batch), size):
            piece = batch.cut(first, first + size)
            tokens_B = piece.trainable.flatten().nonzero().flatten() + first * length
            acts_BD = joined(piece.acts, site)[piece.trainable]
            x_BD = acts_BD.to(self.device, coder.dtype)
            yield tokens_B.to(self.device), *coder.encode_sparse(x_BD)

    # Then what they left is gathered, range by range of latents.

    def _gather(self, one: Watchable, coder: Coder) -> None:
        parts, (about, _) = self._parts(one), self._sequences
        fired_F = parts.counts()
        edges = _edges(fired_F, self.mesh.latent.size, self.config)
        near = self._near(coder)
        effect_of = self._unembeddings.get(one.target)
        data, first = self.mesh.data, coder.latents.start
        own = [range(*edge) for edge in pairwise(edges) if edge[0] in coder.latents]

        def gather() -> None:
            fired = torch.from_numpy(fired_F).to(self.device)
            for latents in self._missing(one, own[data.index :: data.size]):
                entries = parts.read(latents)
                self._write_entries(one, latents, entries)
                entries = entries.to(self.device)
                columns = count(entries) | examples(entries, about.sequence_length, self.config)
                held = slice(latents.start - first, latents.stop - first)
                if effect_of is not None:
                    columns |= logits(coder.W_dec[held], effect_of, self.config.logits)
                columns |= {name: column[held] for name, column in near.items()}
                num = self.config.neighbours
                columns |= cofiring(entries, latents, parts, fired, about.num_tokens, num)
                write_tensors(self._file(one, latents), _arrays(columns))

        on_every_rank(None, gather)
        on_first_rank(None, lambda: self._conclude(one, coder, edges, int(fired_F.sum())))

    def _missing(self, one: Watchable, own: Sequence[range]) -> Iterator[range]:
        total, share = one.num_latents, self.mesh.world.size
        with progress(total=total, desc=f"gather {one.name}", unit="latent") as bar:
            for latents in own:
                if not self._file(one, latents).is_file():
                    yield latents
                bar.update(min(len(latents) * share, total - bar.n))

    def _file(self, one: Watchable, latents: range) -> Path:
        return self.folder / one.name / range_file(latents.start, latents.stop)

    def _write_entries(self, one: Watchable, latents: range, entries: Entries) -> None:
        path = self.folder / one.name / "fired" / range_file(latents.start, latents.stop)
        named = {"offsets": entries.offsets, "tokens": entries.tokens_M, "values": entries.acts_M}
        write_tensors(path, _arrays(named))

    def _near(self, coder: Coder) -> Columns:
        """`nearest` and `cosine` of this slice's latents; called by all processes together."""
        first, num = coder.latents.start, self.config.neighbours
        if num:
            number_nK, cosine_nK = self._nearest(coder, coder.W_dec, num, first=first)
        else:
            cosine_nK = number_nK = torch.zeros(len(coder.latents), 0)
        return {"nearest": number_nK.int(), "cosine": cosine_nK}

    def _nearest(
        self, coder: Coder, others_FE: Tensor, num: int, first: int | None
    ) -> tuple[Tensor, Tensor]:
        """`decoders.nearest` of this slice's latents, which the processes of its rows share."""
        data, num_held = self.mesh.data, len(coder.latents)
        start, stop = (num_held * part // data.size for part in (data.index, data.index + 1))
        found = nearest(
            coder.W_dec[start:stop],
            others_FE,
            num,
            self.mesh.latent,
            first=None if first is None else first + start,
            are_signed=coder.config.signed,
        )
        number_nK, cosine_nK = (data.all_gather_uneven(v) for v in found)
        return number_nK, cosine_nK

    @cached_property
    def _unembeddings(self) -> dict[str, Unembedding | None]:
        """By target what a direction there does to the logits."""
        targets = sorted({coder.target for coder in self.chosen if not is_joint(coder.target)})
        return {} if self.unembed is None else self.unembed(targets)

    def _conclude(self, one: Watchable, coder: Coder, edges: list[int], num_fired: int) -> None:
        """Say that a rung's latents are there, and remove the parts they were gathered from."""
        (about, _), config, folder = self._sequences, self.config, self.folder / one.name
        names = {range_file(*edge) for edge in pairwise(edges)}
        for path in [*folder.glob("*.safetensors"), *folder.glob("fired/*.safetensors")]:
            if path.name not in names:  # a start that was ended had cut them otherwise
                path.unlink()
        write_about(
            folder / ABOUT,
            RungAbout(
                version=VERSION,
                rung=one.name,
                coder=one.fingerprint,
                kind=coder.config.kind,
                form=coder.config.form.value,
                site=one.site,
                target=one.target,
                num_latents=one.num_latents,
                d_in=one.d_in,
                d_out=one.d_out,
                l0=num_fired / about.num_tokens,
                window=min(config.window, about.sequence_length),
                num_quantiles=config.quantiles,
                edges=edges,
                settings=self._settings,
            ),
        )
        shutil.rmtree(folder / PARTS)

    # Last, rungs that differ in width are put beside each other.

    def _compare(self) -> None:
        for name, other in on_first_rank(None, self._pairs):
            load = cache(lambda n: self.known[n].load(self.mesh))
            found = self._nearest(load(name), load(other).W_dec, _BESIDE, first=None)
            number_FK, cosine_FK = (self.mesh.latent.all_gather(v) for v in found)
            path = self._beside(name, other)
            arrays = _arrays({"nearest": number_FK.int(), "cosine": cosine_FK})
            on_first_rank(None, partial(write_tensors, path, arrays))

    def _pairs(self) -> list[tuple[str, str]]:
        """Each rung that is there with that of the next lower width, and the other way round."""
        abouts = {path.parent.name: read_json(path) for path in self.folder.glob(f"*/{ABOUT}")}
        ladder = {n: a for n, a in abouts.items() if n in self.known}
        pairs = [one for pair in neighbours(ladder) for one in (pair, pair[::-1])]
        return [pair for pair in pairs if not self._beside(*pair).is_file()]

    def _beside(self, name: str, other: str) -> Path:
        return self.folder / name / "beside" / f"{other}.safetensors"


def _check(
    chosen: Sequence[Watchable], source: Sequences, config: WatchConfig, world: World
) -> None:
    """Raise UserError for a mesh, or activations, that do not fit."""
    latent = config.parallel.latent
    if world.size % latent:
        raise UserError(
            f"parallel.latent={latent} must divide the {world.size} processes; choose a divisor"
        )
    for coder in chosen:
        if coder.form is Form.cross_layer_transcoder:
            raise UserError(
                f"found {coder.name}, a cross-layer transcoder, whose latents have several "
                "decoders; expected coders with one; choose others with rungs=[…]"
            )
        slice_of(coder.num_latents, 0, latent)
        if width_of(source.widths, coder.site) != coder.d_in:
            raise UserError(
                f"{coder.name} wants {coder.site} of width {coder.d_in}; there are {source.widths}:"
                " set store=… to the store it was trained on"
            )


def _clear(rung: Path) -> None:
    """Remove a rung's latents, but not what was explained of them."""
    (rung / ABOUT).unlink(missing_ok=True)
    beside = rung.parent.glob(f"*/beside/{rung.name}.safetensors")
    for path in [*rung.glob("*.safetensors"), *beside]:
        path.unlink()
    for name in (PARTS, "fired", "beside"):
        shutil.rmtree(rung / name, ignore_errors=True)


def _edges(fired_F: np.ndarray, slices: int, config: WatchConfig) -> list[int]:
    """Where ranges of latents begin and end: inside of slices, and so that their activations fit.

    A latent that has more of them than fit is a range of its own.
    """
    most = max(1, int(config.memory_gib * 2**30) // _ENTRY_BYTES)
    ends_F, edges = np.cumsum(fired_F), [0]
    while edges[-1] < len(fired_F):
        start = edges[-1]
        before = int(ends_F[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends_F, before + most, side="right"))
        size = len(fired_F) // slices
        end_of_slice = (start // size + 1) * size
        edges.append(max(start + 1, min(fitting, start + _MOST_LATENTS, end_of_slice)))
    return edges


def _arrays(columns: Columns) -> dict[str, np.ndarray]:
    return {name: column.cpu().numpy() for name, column in columns.items()}
