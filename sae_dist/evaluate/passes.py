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
from sae_dist.evaluate.config import BUILT_IN, EvaluationConfig
from sae_dist.evaluate.labelled import LabelledTexts
from sae_dist.evaluate.lm_batch import Changed, LMBatch, reader
from sae_dist.evaluate.measure import Measure, PairMeasure
from sae_dist.evaluate.output import run_coder
from sae_dist.evaluate.pooled import pool
from sae_dist.evaluate.registry import Declared, Needs, measures
from sae_dist.evaluate.tasks import identity_of, read_texts
from sae_dist.lm import LM, most_positions
from sae_dist.parallel import Axis, Mesh
from sae_dist.stream import ActivationSource, HeldOutBatch, HeldOutPart

_ORDER = list(Needs)
_DOING = {
    Needs.CODES: "evaluate",
    Needs.LM: "splice into the LM",
    Needs.GRADIENTS: "attribute",
    Needs.TEXTS: "read labelled texts",
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
        """How many held-out sequences (sets of labelled texts) a measure is given; 0: it is not
        taken.
        """
        if kind.needs.runs_lm and (self.load_lm is None or not self.config.lm_sequences):
            return 0
        if kind.needs is Needs.TEXTS:
            return len(self.data)
        asked = attrgetter(kind.sequences)(self.config)
        return self.source.num_held_out if asked is None else min(asked, self.source.num_held_out)

    @property
    def data(self) -> list[str]:
        """The labelled texts: those named; all built-in ones, if a measure is that reads them."""
        asked = self.config.measures or []
        is_asked = any(measures()[name].needs is Needs.TEXTS for name in asked)
        return self.config.probes.data or (list(BUILT_IN) if is_asked else [])

    @cached_property
    def identities(self) -> list[list[str]]:
        """Of each set of labelled texts what tells it from another of its name."""
        return [identity_of(data) for data in self.data]

    def take(self, taken: Iterable[Measure | PairMeasure]) -> Iterator[Any]:
        """Yield the measures, those of a pass together once it is over."""

        def pass_of(measure: Declared) -> tuple[int, str]:
            return _ORDER.index(measure.needs), measure.sequences

        for _, sharing in groupby(sorted(taken, key=pass_of), key=pass_of):
            group = list(sharing)
            if group[0].needs is Needs.TEXTS:
                self._feed_texts(group)
            elif group[0].needs.runs_lm:
                self._feed_lm(group)
            elif group[0].needs.reads:
                self._feed(group)
            yield from group

    def _feed(self, group: Sequence[Measure | PairMeasure]) -> None:
        sharing = {m.subjects: [o for o in group if o.subjects == m.subjects] for m in group}
        sites = {part for subjects in sharing for s in subjects for part in s.sites}
        num_tokens = torch.zeros((), dtype=torch.int64, device=group[0].subjects[0].device)
        for batch in self._batches(group[0], sorted(sites), self._size):
            num_tokens += batch.trainable.sum().to(num_tokens.device)
            for subjects, sharers in sharing.items():
                seen = [
                    run_coder(
                        *(s.coder, *s.reads(batch.acts)),
                        *(batch.trainable, batch.input_ids),
                    )
                    for s in subjects
                ]
                for measure in sharers:
                    measure.update(*seen)
        if not self.mesh.data.all_reduce(num_tokens):
            raise UserError(
                f"found no token to measure in {self.source.about.get('store')}; expected some "
                "that are trainable among the held-out ones; hold out more, or raise max_sequences"
            )

    def _feed_lm(self, group: Sequence[Any]) -> None:
        size = self.config.lm_batch_sequences or self._size
        for number, batch in enumerate(self._batches(group[0], [], size)):
            zeros = self._zeros.setdefault((group[0].sequences, number), {})
            seen = LMBatch(self._lm, batch.input_ids, batch.trainable, zeros, self._team)
            for measure in group:
                measure.update(seen)

    def _feed_texts(self, group: Sequence[Any]) -> None:
        subjects = list(dict.fromkeys(measure.subject for measure in group))
        sites = {part for s in subjects for part in s.sites}
        capture = reader(self._lm, sorted(sites), self._team)
        for texts in self._texts:
            size = max(1, self.config.batch_tokens // texts.ids_NS.shape[1])
            with progress(total=len(texts), desc=f"read {texts.name}", unit="text") as bar:
                found = pool(texts, subjects, capture, size, bar)
            for subject, seen in zip(subjects, found, strict=True):
                for measure in group:
                    if measure.subject is subject:
                        measure.update(seen)

    @cached_property
    def _texts(self) -> list[LabelledTexts]:
        most = most_positions(self._lm.model.config.get_text_config())
        num_positions = min(self.config.probes.context, most or self.config.probes.context)
        return [
            read_texts(data, self._lm.tokenizer, self.config.probes, num_positions)
            for data in self.data
        ]

    @property
    def _team(self) -> Axis | None:
        return self.mesh.latent if self._lm.config.tensor > 1 else None

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
