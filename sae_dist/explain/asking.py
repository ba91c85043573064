"""A judge at work: what it will cost, and what it is asked, latent by latent, within a budget."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info, progress
from sae_dist.explain.config import BudgetConfig
from sae_dist.explain.judges import Judge, JudgeConfig
from sae_dist.explain.questions import Usage
from sae_dist.explain.work import Job, Work

_LOOKED_AT = 4  # latents whose prompts are counted, and stand for the others'


def explain(
    works: Sequence[Work], judge_config: JudgeConfig, budget: BudgetConfig, tokenizer: Any
) -> Usage:
    """Explain and score what is wanted and not there, each latent written as it is done.

    What it will take is told first, as `tokenizer` counts it.

    Returns:
        what the judge was asked.

    Raises:
        UserError: that is more than the budget, or it is spent before all is done; the judge cannot
            be asked, or most of its answers are unusable. What is done stays.
    """
    foreseen = foresee(works, tokenizer)
    log_info(f"{judge_config.who} will be asked for {_told(foreseen, judge_config)}")
    _check(foreseen, judge_config, budget)
    for work in works:
        work.write_given()
    if not foreseen.requests:
        return foreseen
    judge = judge_config.open()

    def has_left() -> bool:
        return not _beyond(judge.spent, judge_config, budget)

    for work in works:
        wanted = work.unexplained()
        said: list[Any] = []
        for job, answers in _ask(judge, wanted, work.to_explain, has_left, f"{work.rung}: explain"):
            missing = work.explain(job, answers)
            said += missing or answers[:1]
        work.require_answers(said)
        unscored = work.explained(work.unscored(judge.scale))
        for job, answers in _ask(judge, unscored, work.to_score, has_left, f"{work.rung}: score"):
            work.score(job, answers, judge.scale)
    log_info(f"{judge_config.who} was asked for {_told(judge.spent, judge_config)}")
    if (beyond := _beyond(judge.spent, judge_config, budget)) and any(w.unscored() for w in works):
        raise UserError(
            f"the budget is spent: found {beyond}; what is done is kept; start the same command "
            "again to go on"
        )
    return judge.spent


def foresee(works: Sequence[Work], tokenizer: Any) -> Usage:
    """What the judge will be asked, if no answer has to be asked for again.

    Of each rung the prompts of a few latents are counted.
    """
    total = Usage()
    for work in works:
        total += _foreseen(work.unexplained(), work.to_explain, tokenizer)
        controlled = set(work.latents[: work.config.control_latents])
        unscored = work.unscored()
        for is_control in (True, False):  # of which the former are asked for twice
            own = {k: v for k, v in unscored.items() if (k in controlled) == is_control}
            total += _foreseen(own, work.to_score, tokenizer)
    return total


def _foreseen(
    wanted: Mapping[int, Any], job_of: Callable[[int, Any], Job], tokenizer: Any
) -> Usage:
    jobs = [job_of(*one) for one in islice(wanted.items(), _LOOKED_AT)]
    questions = [question for job in jobs for question in job.questions]
    texts = (turn["content"] for question in questions for turn in question.messages())
    counted = (
        len(questions),
        sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts),
        sum(question.form.num_tokens for question in questions),
    )
    return Usage(*(round(count * len(wanted) / max(1, len(jobs))) for count in counted))


def _ask(
    judge: Judge,
    wanted: Mapping[int, Any],
    job_of: Callable[[int, Any], Job],
    has_left: Callable[[], bool],
    what: str,
) -> Iterator[tuple[Job, list[Any]]]:
    """Each job with its answers, in their order; no further one is begun where nothing is left.

    Jobs are made, and their questions asked, some way ahead.
    """
    asked: deque[Job] = deque()

    def questions() -> Iterator[Any]:
        for one in wanted.items():
            if not has_left():
                return
            asked.append(job_of(*one))
            yield from asked[-1].questions

    with (
        closing(judge.answers(questions())) as answers,  # type: ignore[type-var]  # a generator
        progress(total=len(wanted), desc=what, unit="latent", shown=bool(wanted)) as bar,
    ):
        for first in answers:
            job = asked.popleft()
            yield job, [first, *islice(answers, len(job.questions) - 1)]
            bar.update()


def _check(foreseen: Usage, judge: JudgeConfig, budget: BudgetConfig) -> None:
    if budget.dollars is not None and judge.dollars(foreseen) is None:
        raise UserError(
            f"found budget.dollars={budget.dollars:g} without prices; expected judge.price_in and "
            "judge.price_out, in dollars for a million tokens; give both"
        )
    if beyond := _beyond(foreseen, judge, budget, is_foreseen=True):
        raise UserError(
            f"found {beyond} foreseen; expected no more; ask for fewer latents (num_latents) or "
            "scorers, or raise the budget"
        )


def _beyond(
    usage: Usage, judge: JudgeConfig, budget: BudgetConfig, *, is_foreseen: bool = False
) -> str:
    """What of a budget is used up, or would be exceeded, in words; nothing where there is some."""
    used = {
        "requests": usage.requests,
        "tokens": usage.tokens_in + usage.tokens_out,
        "dollars": judge.dollars(usage),
    }
    for name, number in used.items():
        limit = getattr(budget, name)
        if limit is None or number is None:
            continue
        if number > limit or (number == limit and not is_foreseen):
            return f"{number:,.6g} {name} of budget.{name}={limit:,.6g}"
    return ""


def _told(usage: Usage, judge: JudgeConfig) -> str:
    dollars = judge.dollars(usage)
    cost = "" if dollars is None else f", ${dollars:,.2f}"
    return (
        f"{usage.requests:,} requests, {usage.tokens_in:,} tokens in and {usage.tokens_out:,} "
        f"out{cost}"
    )
