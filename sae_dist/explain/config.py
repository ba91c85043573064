"""Which latents are explained and scored, on what, and what that may cost."""

from dataclasses import dataclass, field

from sae_dist.common.errors import UserError
from sae_dist.common.settings import setting
from sae_dist.explain.scorers import scorer_names


@dataclass(kw_only=True, slots=True)
class ExamplesConfig:
    """Which windows of text an explainer and a judge are shown (Paulo et al. 2025, section 2.2).

    Sequences are cut into windows of `window` tokens. Those in which a latent fires are sorted by
    its largest activation there and cut into `quantiles` equal parts; of each, `explain` windows
    are drawn for the explainer and `score` others for the judge, with `inactive` ones in which it
    does not fire. A latent that fires in fewer than `min_windows` is left out.
    """

    window: int = setting(32, min=2)
    quantiles: int = setting(10, min=1)
    explain: int = setting(4, min=1)
    score: int = setting(5, min=1)
    inactive: int = setting(50, min=1)
    min_windows: int = setting(200, min=1)


@dataclass(kw_only=True, slots=True)
class BudgetConfig:
    """What the judge may be asked for at most, now (null: any number).

    What is foreseen beyond it is refused before anything is asked. `dollars` wants the judge's
    prices.
    """

    requests: int | None = setting(None, min=1)
    tokens: int | None = setting(None, min=1)
    dollars: float | None = setting(None, above=0)


@dataclass(kw_only=True, slots=True)
class ExplanationConfig:
    """Which latents are explained and scored, on what, and what that may cost.

    `rungs` names some (null: all), also by patterns; of each, `latents` are taken, or `num_latents`
    that `seed` draws among those with enough windows: more of them are the same and others.
    `scorers` (null: detection and fuzzing) are added to what an explanation is scored by already.
    `explanations` is a file of texts to score instead of asking for some: .json as {LATENT: TEXT},
    or .csv with the columns `latent` and `text`. With `planted` no coder's latents are scored but
    so many made-up ones, each firing on one token and explained by saying so: what the judge can do
    at best. `control_latents` of them are also scored by another latent's explanation: what no
    explanation is worth. `shown` texts are judged in one request. With `replace`, explanations that
    are there of another coder, judge or setting are written anew.
    """

    rungs: list[str] | None = None
    latents: list[int] | None = setting(None, min=0)
    num_latents: int = setting(100, min=1)
    seed: int = setting(0, min=0)
    scorers: list[str] | None = setting(None, among=scorer_names)
    explanations: str | None = None
    planted: bool = False
    control_latents: int = setting(20, min=0)
    shown: int = setting(5, min=1)
    replace: bool = False
    examples: ExamplesConfig = field(default_factory=ExamplesConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)


def check(config: ExplanationConfig) -> None:
    """Raise UserError for settings that do not fit each other."""
    asked = config.examples
    least = asked.quantiles * (asked.explain + asked.score)
    if asked.min_windows < least:
        raise UserError(
            f"found examples.min_windows={asked.min_windows}; expected at least {least}, as "
            f"{asked.quantiles} quantiles give {asked.explain} + {asked.score} windows each; raise "
            "it, or lower those"
        )
    if config.planted and (config.latents or config.explanations or config.rungs):
        raise UserError(
            "found planted=true beside latents, explanations or rungs; expected made-up latents "
            "alone; take the others out"
        )
