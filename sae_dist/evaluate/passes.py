"""Passes over the held-out sequences, each shared by all measures that need the same."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, cast

import torch

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.evaluate.config import EvaluationConfig
from sae_dist.evaluate.lm_batch import Changed, LMBatch
from sae_dist.evaluate.measure import Declared, Measure, Needs, PairMeasure, Subject
from sae_dist.evaluate.output import CoderOutput, run_coder
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


class Passes:
    """Feeds measures with held-out sequences, and says of each when it has seen all.

    Args:
        lm: loads the language model, once it is needed; None where there is none.
    """

    def __init__(
        self,
        source: ActivationSource,
        lm: Callable[[], LM] | None,
        config: EvaluationConfig,
        mesh: Mesh,
    ) -> None:
        self.source, self.config, self.mesh = source, config, mesh
        self._load_lm = lm
        self._zeros: dict[tuple[str, int], dict[str, Changed]] = {}  # they are no coder's

    def sequences(self, kind: type[Declared]) -> int:
        """How many held-out sequences a measure is given; 0: it is not taken."""
        needs_lm = kind.needs in (Needs.LM, Needs.GRADIENTS)
        if needs_lm and (self._load_lm is None or not self.config.lm_sequences):
            return 0
        asked = attrgetter(kind.sequences)(self.config)
        return self.source.num_held_out if asked is None else min(asked, self.source.num_held_out)

    def take(self, measures: Iterable[Measure | PairMeasure]) -> Iterator[Any]:
        """Yield the measures, those of a pass together once it is over."""

        def pass_of(measure: Declared) -> tuple[int, str]:
            return _ORDER.index(measure.needs), measure.sequences

        for _, sharing in groupby(sorted(measures, key=pass_of), key=pass_of):
            group = list(sharing)
            if group[0].needs is not Needs.WEIGHTS:
                self._feed(group)
            yield from group

    def _feed(self, group: Sequence[Measure | PairMeasure]) -> None:
        size = max(1, self.config.batch_tokens // self.source.sequence_length)
        if group[0].needs in (Needs.LM, Needs.GRADIENTS):
            self._feed_lm(group, self.config.lm_batch_sequences or size)
            return
        sharing = {m.subjects: [o for o in group if o.subjects == m.subjects] for m in group}
        sites = sorted({site for subjects in sharing for s in subjects for site in s.sites})
        num_tokens = torch.zeros((), dtype=torch.int64, device=next(iter(sharing))[0].device)
        for batch in self._batches(group, sites, size):
            num_tokens += batch.trainable.sum().to(num_tokens.device)
            for subjects, measures in sharing.items():
                seen = [_seen(subject, batch) for subject in subjects]
                for measure in measures:
                    measure.update(*seen)
        if not self.mesh.data.all_reduce(num_tokens):
            raise UserError(
                f"found no token to measure in {self.source.about.get('store')}; expected some "
                "that are trainable among the held-out ones; hold out more, or raise max_sequences"
            )

    def _feed_lm(self, group: Sequence[Measure | PairMeasure], size: int) -> None:
        team = self.mesh.latent if self._lm.config.tensor > 1 else None
        for number, batch in enumerate(self._batches(group, [], size)):
            zeros = self._zeros.setdefault((group[0].sequences, number), {})
            seen = LMBatch(self._lm, batch.input_ids, batch.trainable, zeros, team)
            for measure in group:
                cast(Measure, measure).update(seen)

    @cached_property
    def _lm(self) -> LM:
        assert self._load_lm is not None
        return self._load_lm()

    def _batches(
        self, group: Sequence[Declared], sites: list[str], size: int
    ) -> Iterator[HeldOutBatch]:
        """This part's batches of the first sequences, `size` at once, under a bar over all."""
        total, data = self.sequences(type(group[0])), self.mesh.data
        batches = self.source.held_out(sites, HeldOutPart(data.index, data.size, total, size))
        with progress(total=total, desc=_DOING[group[0].needs], unit="sequence") as bar:
            for batch in batches:
                yield batch
                bar.update(min(len(batch) * data.size, total - bar.n))


def _seen(subject: Subject, batch: HeldOutBatch) -> CoderOutput:
    """What a coder makes of a batch; an autoencoder's input and target are one tensor."""
    return run_coder(
        subject.coder,
        batch.acts[subject.site],
        batch.acts[subject.target],
        batch.trainable,
        batch.input_ids,
    )
