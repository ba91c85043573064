r"""Explain what latents of a run fire on, and score how far a judge can foresee it from that.

    sae-dist explain run=NAME judge=openai judge.model=gpt-4o-mini budget.dollars=5 \
        judge.price_in=0.15 judge.price_out=0.6
    sae-dist explain run=NAME judge.model=MODEL judge.base_url=http://localhost:8000/v1
    sae-dist explain run=NAME judge=local judge.model=FOLDER
    sae-dist explain run=NAME judge=local judge.model=FOLDER planted=true

What `sae-dist latents` has watched is shown. Before anything is asked it is told how many requests
and tokens it will take, and what they cost at the prices that are given. Writes
`runs/NAME/latents/RUNG/explanations/LATENT.json` as each is done; started again, it goes on where
it stopped, and with other `scorers` adds theirs. What they are worth together goes to
`runs/NAME/evaluation/RUNG/explanations.json`, for the report. With `planted=true` the judge itself
is tried first, on explanations that are true.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sae_dist.apps.command import command, entry
from sae_dist.apps.harvested import load_harvested_tokenizer
from sae_dist.apps.pages import write_pages
from sae_dist.apps.runs import run_folder
from sae_dist.common.errors import UserError
from sae_dist.common.figures import shown
from sae_dist.common.log import log_info
from sae_dist.common.patterns import rungs_asked_for
from sae_dist.config import ExplainConfig
from sae_dist.evaluate.results import rung_path, write_figures
from sae_dist.explain import Examples, Planted, Work, read_texts, summarise
from sae_dist.explain import explain as ask
from sae_dist.latents import Latents, rungs_with_latents

_PLANTED = "planted"  # in place of a rung


@command
def explain(config: ExplainConfig) -> dict[str, dict[str, Any]]:
    """Explain and score latents as `config` says.

    Returns:
        by rung the figures of its latents together, or by `planted` those of the planted ones.
    """
    folder = run_folder(config.runs, config.run)
    names = rungs_asked_for(config.rungs, rungs_with_latents(folder), config.run)
    rungs = [Latents(folder, name) for name in names]
    tokenizer = _tokenizer(config, rungs[0])
    made = _planted if config.planted else _work
    works = [made(config, rung, tokenizer) for rung in rungs[: 1 if config.planted else None]]
    for work in works:
        log_info(_told(work))
    try:
        ask(works, config.judge, config.budget, tokenizer)
    finally:
        found = {work.rung: _summary(folder, work) for work in works if any(_scored(work))}
        if found and not config.planted:
            write_pages(folder, config.lm_name, trust_remote_code=config.lm_trust_remote_code)
    return found


def _tokenizer(config: ExplainConfig, rung: Latents) -> PreTrainedTokenizerBase:
    if (lm := rung.about.lm) is None:
        raise UserError(
            f"found latents of run={config.run} on activations without a language model; expected "
            "one, whose tokenizer says what its tokens read; explain a run of a harvested store"
        )
    trust = config.lm_trust_remote_code
    return load_harvested_tokenizer(lm, config.lm_name, trust_remote_code=trust)


def _work(config: ExplainConfig, rung: Latents, tokenizer: PreTrainedTokenizerBase) -> Work:
    texts = None
    if config.explanations is not None:
        texts = read_texts(Path(config.explanations))
        names = rungs_with_latents(rung.run)
        if len(rungs_asked_for(config.rungs, names, config.run)) > 1:
            raise UserError(
                f"found explanations={config.explanations} for several rungs ({', '.join(names)}); "
                "expected one rung, whose latents it names; choose it with rungs=…"
            )
        if missing := set(config.latents or ()) - texts.keys():
            raise UserError(
                f"found no text for latent {min(missing)} in explanations={config.explanations}; "
                "expected one for each of latents; add it, or leave that latent out"
            )
    return Work(
        run=rung.run,
        rung=rung.rung.rung,
        coder={"coder": rung.rung.coder} | _sequences(rung),
        examples=Examples(rung, tokenizer, config.examples, config.seed),
        fired_F=rung.column("fired"),
        config=config,
        judge=config.judge.who,
        explainer=config.judge.who if texts is None else "given",
        texts=texts,
    )


def _planted(config: ExplainConfig, rung: Latents, tokenizer: PreTrainedTokenizerBase) -> Work:
    planted = Planted(rung, tokenizer)
    work = Work(
        run=rung.run,
        rung=_PLANTED,
        coder=_sequences(rung),
        examples=Examples(planted, tokenizer, config.examples, config.seed),
        fired_F=planted.fired_F,
        config=config,
        judge=config.judge.who,
        explainer=_PLANTED,
    )
    return replace(work, texts={latent: planted.explanation(latent) for latent in work.latents})


def _sequences(rung: Latents) -> dict[str, Any]:
    about = rung.about
    return {"source": about.source, "sequences": [about.num_sequences, about.sequence_length]}


def _told(work: Work) -> str:
    skipped = f"; {work.skipped:,} others fire in too few windows" if work.skipped else ""
    done = len(work.latents) - len(work.unscored())
    gone_on = f", {done:,} of them scored already" if done else ""
    which = "named" if work.config.latents or work.config.explanations else "drawn"
    return f"{work.rung}: {len(work.latents):,} latents {which}{gone_on}{skipped}"


def _scored(work: Work) -> list[Any]:
    return [one for one in work.there.values() if one.scores]


def _summary(folder: Path, work: Work) -> dict[str, Any]:
    """Write what a rung's explanations are worth together, and say it."""
    figures = summarise(_scored(work))
    of = work.of | {"explainer": work.explainer, "judge": work.judge}
    write_figures(rung_path(folder, work.rung, "explanations"), of, figures)
    told = []
    for name, own in figures["scores"].items():
        chance = own["shuffled"]["mean"]
        beside = "" if chance is None else f" (shuffled {chance:.3f})"
        told.append(f"{name} {shown(own['mean'], '.3f')}{beside}")
    log_info(f"  {work.rung}: {', '.join(told)}, of {figures['explained']} latents")
    return figures


main = entry("explain")
