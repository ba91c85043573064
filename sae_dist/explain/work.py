"""The explanations of one rung: which are wanted, which are there, and what answers are worth."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.explain import prompts
from sae_dist.explain.config import ExplanationConfig
from sae_dist.explain.examples import Examples, Sample
from sae_dist.explain.questions import Missing, Question
from sae_dist.explain.scorers import SCORERS, Scorer
from sae_dist.latents import Explanation, read_explanations, write_explanation
from sae_dist.latents.folder import FOLDER

DEFAULT = ["detection", "fuzzing"]
FAILURES = "failures.jsonl"
TEXT = "explanation"  # the part of a job that asks for it
SHUFFLED = "shuffled"  # a scorer's part with another latent's
_GUESS = "a sentence of some length about what these tokens and their passages have in common"


@dataclass(frozen=True, slots=True)
class Job:
    """Questions about one latent, by what they are for: a scorer's name, and which explanation."""

    latent: int
    sample: Sample
    parts: dict[tuple[str, str], list[Question]]

    @property
    def questions(self) -> list[Question]:
        """All of them."""
        return [question for own in self.parts.values() for question in own]

    def answered(
        self, answers: Sequence[Any]
    ) -> Iterator[tuple[tuple[str, str], list[Question], list[Any]]]:
        """What each part asked and was answered."""
        left = iter(answers)
        for part, own in self.parts.items():
            yield part, own, list(islice(left, len(own)))


@dataclass(kw_only=True)
class Work:
    """What is wanted of one rung.

    Attributes:
        coder: whose windows these are: the coder's fingerprint, the sequences.
        fired_F: on how many tokens each latent fires.
        judge, explainer: who judges, and who explains.
        texts: explanations that are given, by latent; None to ask for them.
        skipped: how many latents were looked at and have not enough windows.
    """

    run: Path
    rung: str
    coder: dict[str, Any]
    examples: Examples
    fired_F: np.ndarray
    config: ExplanationConfig
    judge: str
    explainer: str
    texts: dict[int, str] | None = None
    skipped: int = field(default=0, init=False)

    @cached_property
    def latents(self) -> list[int]:
        """Those that are wanted and have enough windows.

        Raises:
            UserError: there are none.
        """
        config, least = self.config, self.config.examples.min_windows
        named = config.latents or (None if config.planted else self.texts and list(self.texts))
        drawn = generator(config.seed, "latents").permutation(np.flatnonzero(self.fired_F >= least))
        found: list[int] = []
        for latent in named or map(int, drawn):
            if not named and len(found) == config.num_latents:
                break
            is_enough = self.examples.has_enough(latent)
            found += [latent] * is_enough
            self.skipped += not is_enough
        if not found:
            raise UserError(
                f"found no latent of {self.rung} that fires in {least} windows of "
                f"{config.examples.window} tokens, and not in nearly all; expected one; watch more "
                "sequences with sae-dist latents, or lower examples.min_windows"
            )
        return found

    @cached_property
    def of(self) -> dict[str, Any]:
        """What scores depend on, beside explainer and judge."""
        examples = asdict(self.config.examples)
        del examples["min_windows"]
        asked = {"examples": examples, "seed": self.config.seed, "shown": self.config.shown}
        return dict(msgspec.to_builtins(self.coder | asked))

    @cached_property
    def there(self) -> dict[int, Explanation]:
        """What is there already, of these latents, this coder, judge and settings.

        Raises:
            UserError: something else is, and nobody said `replace`.
        """
        found = read_explanations(self.run, self.rung)
        found = {latent: found[latent] for latent in self.latents if latent in found}
        same = {latent: one for latent, one in found.items() if self._is_wanted(one)}
        if len(same) < len(found) and not self.config.replace:
            other = next(one for latent, one in found.items() if latent not in same)
            raise UserError(
                f"found explanations of {self.rung} by {other.explainer}, judged by {other.judge}, "
                "with other settings, other texts or of another coder; expected none, or the same; "
                "set replace=true to write them anew"
            )
        return same

    def _is_wanted(self, one: Explanation) -> bool:
        text = one.text if self.texts is None else self.texts[one.latent]
        said = one.explainer, one.judge, one.of, one.text
        return said == (self.explainer, self.judge, self.of, text)

    def scorers(self, scale: int = prompts.SCALE) -> list[Scorer]:
        """Those that are asked for."""
        names = self.config.scorers or DEFAULT
        return [SCORERS.named(name)(self.config.shown, scale) for name in names]

    def write_given(self) -> None:
        """Write the explanations that are given and not yet there."""
        for latent, text in (self.texts or {}).items():
            if latent in self.latents and latent not in self.there:
                self._write(latent, text)

    def unexplained(self) -> dict[int, list[str]]:
        """The latents for which explanations are to be asked, and for whom: "" for all scorers but
        those that want one of their own.
        """
        own = [scorer.name for scorer in self.scorers() if scorer.of_peaks]
        found = {}
        for latent in self.latents if self.texts is None else ():
            told = self.there[latent].details if latent in self.there else {}
            wanted = [] if latent in self.there else [""]
            found[latent] = wanted + [n for n in own if TEXT not in told.get(n, {})]
        return {latent: wanted for latent, wanted in found.items() if wanted}

    def unscored(self, scale: int = prompts.SCALE) -> dict[int, list[Scorer]]:
        """The latents that are not scored by all scorers, and by which not."""
        found = {
            latent: [
                scorer
                for scorer in self.scorers(scale)
                if latent not in self.there or scorer.name not in self.there[latent].scores
            ]
            for latent in self.latents
        }
        return {latent: missing for latent, missing in found.items() if missing}

    def explained(self, unscored: dict[int, list[Scorer]]) -> dict[int, list[Scorer]]:
        """Those of them whose explanation is there, too."""
        found = {
            latent: [scorer for scorer in own if self._is_explained(latent, scorer)]
            for latent, own in unscored.items()
        }
        return {latent: own for latent, own in found.items() if own}

    def _is_explained(self, latent: int, scorer: Scorer) -> bool:
        if latent not in self.there or not scorer.of_peaks or self.texts is not None:
            return latent in self.there
        return TEXT in self.there[latent].details.get(scorer.name, {})

    def to_explain(self, latent: int, wanted: Sequence[str]) -> Job:
        """What is to be asked for explanations."""
        sample = self._sample(latent)
        ask = {name: prompts.explain_peaks if name else prompts.explain for name in wanted}
        return Job(latent, sample, {(n, TEXT): [question(sample)] for n, question in ask.items()})

    def to_score(self, latent: int, scorers: Sequence[Scorer]) -> Job:
        """What is to be asked for scores; where an explanation is missing, for as long a text."""
        sample = self._sample(latent)
        parts = {(s.name, ""): s.questions(sample, self._text(latent, s)) for s in scorers}
        for other in self._control(latent):
            parts |= {
                (s.name, SHUFFLED): s.questions(sample, self._text(other, s)) for s in scorers
            }
        return Job(latent, sample, parts)

    def _control(self, latent: int) -> list[int]:
        """The latent, if any, whose explanation it is also scored by: the next that has one."""
        place = self.latents.index(latent)
        if place >= self.config.control_latents:
            return []
        others = self.latents[place + 1 :] + self.latents[:place]
        is_explained = latent in self.there  # before it is, others' will be
        return [one for one in others if one in self.there or not is_explained][:1]

    def explain(self, job: Job, answers: Sequence[Any]) -> list[Missing]:
        """Write what was answered; gives what was not, for which another start will ask again."""
        said = {name: own[0] for (name, _), _, own in job.answered(answers)}
        missing = {name: one for name, one in said.items() if isinstance(one, Missing)}
        self._log(job.latent, TEXT, missing.values())
        if "" in said.keys() - missing.keys():
            self._write(job.latent, said[""])
        if job.latent in self.there:
            told = {name: {TEXT: said[name]} for name in said.keys() - missing.keys() - {""}}
            self._add(job.latent, {}, told)
        return list(missing.values())

    def score(self, job: Job, answers: Sequence[Any], scale: int) -> None:
        """Write what the answers are worth.

        Raises:
            UserError: most answers are missing; nothing is written.
        """
        scorers = {scorer.name: scorer for scorer in self.scorers(scale)}
        scores: dict[str, float | None] = {}
        details: dict[str, dict[str, Any]] = {name: {} for name, _ in job.parts}
        for (name, part), questions, own in job.answered(answers):
            score, told = scorers[name].score(job.sample, questions, own)
            missing = [one for one in own if isinstance(one, Missing)]
            self._log(job.latent, " ".join(filter(None, (name, part))), missing)
            if part == SHUFFLED:
                details[name][SHUFFLED] = score
            else:
                scores[name] = score
                details[name] |= told | {"asked": len(own), "missing": len(missing)}
        self.require_answers(answers)
        self._add(job.latent, scores, details)

    def require_answers(self, answers: Sequence[Any]) -> None:
        """Raise UserError if most of some answers are missing."""
        missing = [one for one in answers if isinstance(one, Missing)]
        if 2 * len(missing) > len(answers):
            raise UserError(
                f"found {len(missing)} of {len(answers)} answers of {self.judge} unusable (the "
                f"last: {missing[-1].reason}); expected most of them in the form that was asked "
                f"for; {self._failures} has all; change the judge's settings, or the judge"
            )

    def _sample(self, latent: int) -> Sample:
        sample = self.examples.of(latent)
        if sample is None:
            raise ValueError(f"{latent} has not enough windows")
        return sample

    def _text(self, latent: int, scorer: Scorer) -> str:
        """The explanation that a scorer judges."""
        if latent not in self.there:
            return _GUESS
        one = self.there[latent]
        own = one.details.get(scorer.name, {}) if scorer.of_peaks else {}
        return str(own.get(TEXT, one.text))

    def _write(self, latent: int, text: str) -> None:
        self.there[latent] = Explanation(
            latent=latent,
            text=text,
            explainer=self.explainer,
            judge=self.judge,
            scores={},
            of=self.of,
        )
        write_explanation(self.run, self.rung, self.there[latent])

    def _add(self, latent: int, scores: dict[str, Any], details: dict[str, dict[str, Any]]) -> None:
        one = self.there[latent]
        merged = one.details | {n: one.details.get(n, {}) | own for n, own in details.items()}
        one = msgspec.structs.replace(one, scores=one.scores | scores, details=merged)
        self.there[latent] = one
        write_explanation(self.run, self.rung, one)

    @property
    def _failures(self) -> Path:
        return self.run / FOLDER / self.rung / FAILURES

    def _log(self, latent: int, of: str, missing: Any) -> None:
        self._failures.parent.mkdir(parents=True, exist_ok=True)
        for one in missing:
            with self._failures.open("ab") as file:
                line = {"latent": latent, "of": of, "reason": one.reason}
                file.write(msgspec.json.encode(line) + b"\n")
