"""Passes over the held-out sequences, each shared by all measures that need the same."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.evaluate.config import EvaluationConfig
from sae_dist.evaluate.lm_batch import Changed, LMBatch
from sae_dist.evaluate.measure import Measure, PairMeasure
from sae_dist.evaluate.output import run_coder
from sae_dist.evaluate.registry import Declared, Needs
from sae_dist.lm import LM
from sae_dist.parallel import Mesh
from sae_dist.stream import ActivationSource, HeldOutBatch, HeldOutPart

_ORDER = list(Needs)
_DOING = {
    Needs.CODES: "evaluate",
    Needs.LM: "splice into the LM",
    Needs.GRADIENTS: "attribute",
    Needs.PAIR: "compare",
}


@dataclass(frozen=True, eq=False)
class Passes:
    """Feeds measures with held-out sequences, and says of each when it has seen all.

    Attributes:
        load_lm: loads the language model, once it is needed; None where there is none.
    """

    source: ActivationSource
    load_lm: Callable[[], LM] | None
    config: EvaluationConfig
    mesh: Mesh
    _zeros: dict[tuple[str, int], dict[str, Changed]] = field(  # they are no coder's
        default_factory=dict, init=False
    )

    def sequences(self, kind: type[Declared]) -> int:
        """How many held-out sequences a measure is given; 0: it is not taken."""
        if kind.needs.runs_lm and (self.load_lm is None or not self.config.lm_sequences):
            return 0
        asked = attrgetter(kind.sequences)(self.config)
        return self.source.num_held_out if asked is None else min(asked, self.source.num_held_out)

    def take(self, measures: Iterable[Measure | PairMeasure]) -> Iterator[Any]:
        """Yield the measures, those of a pass together once it is over."""

        def pass_of(measure: Declared) -> tuple[int, str]:
            return _ORDER.index(measure.needs), measure.sequences

        for _, sharing in groupby(sorted(measures, key=pass_of), key=pass_of):
            group = list(sharing)
            if group[0].needs.runs_lm:
                self._feed_lm(group)
            elif group[0].needs.reads:
                self._feed(group)
            yield from group

    def _feed(self, group: Sequence[Measure | PairMeasure]) -> None:
        sharing = {m.subjects: [o for o in group if o.subjects == m.subjects] for m in group}
        sites = {site for subjects in sharing for s in subjects for site in (s.site, s.target)}
        num_tokens = torch.zeros((), dtype=torch.int64, device=group[0].subjects[0].device)
        for batch in self._batches(group[0], sorted(sites), self._size):
            num_tokens += batch.trainable.sum().to(num_tokens.device)
            for subjects, measures in sharing.items():
                seen = [
                    run_coder(
                        *(s.coder, batch.acts[s.site], batch.acts[s.target]),
                        *(batch.trainable, batch.input_ids),
                    )
                    for s in subjects
                ]
                for measure in measures:
                    measure.update(*seen)
        if not self.mesh.data.all_reduce(num_tokens):
            raise UserError(
                f"found no token to measure in {self.source.about.get('store')}; expected some "
                "that are trainable among the held-out ones; hold out more, or raise max_sequences"
            )

    def _feed_lm(self, group: Sequence[Any]) -> None:
        team = self.mesh.latent if self._lm.config.tensor > 1 else None
        size = self.config.lm_batch_sequences or self._size
        for number, batch in enumerate(self._batches(group[0], [], size)):
            zeros = self._zeros.setdefault((group[0].sequences, number), {})
            seen = LMBatch(self._lm, batch.input_ids, batch.trainable, zeros, team)
            for measure in group:
                measure.update(seen)

    @property
    def _size(self) -> int:
        """Whole sequences of about `batch_tokens`."""
        return max(1, self.config.batch_tokens // self.source.sequence_length)

    @cached_property
    def _lm(self) -> LM:
        assert self.load_lm is not None
        return self.load_lm()

    def _batches(self, measure: Declared, sites: list[str], size: int) -> Iterator[HeldOutBatch]:
        """This part's batches of the first sequences, `size` at once, under a bar over all."""
        total, data = self.sequences(type(measure)), self.mesh.data
        batches = self.source.held_out(sites, HeldOutPart(data.index, data.size, total, size))
        with progress(total=total, desc=_DOING[measure.needs], unit="sequence") as bar:
            for batch in batches:
                yield batch
                bar.update(min(len(batch) * data.size, total - bar.n))
