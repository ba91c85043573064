"""A start goes on where the last one ended, within its budget, and nothing is paid for twice."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sae_dist.common.errors import UserError
from sae_dist.explain import BudgetConfig, explain, foresee, read_texts, summarise
from sae_dist.explain.judges import Judge, JudgeConfig
from sae_dist.explain.questions import Missing, Usage
from sae_dist.latents import Latents, read_explanations
from tests.explain.made_up import LATENTS, RUNG, judge, tokenizer, word, work


class Scripted(JudgeConfig):
    """An oracle that counts, fails after so many questions, and leaves some unanswered."""

    name = "scripted"

    def __init__(self, ends_after: int = 10**9, missing=lambda question: False) -> None:
        self.asked, self._ends_after, self._missing = 0, ends_after, missing

    def open(self) -> Judge:
        return _Scripted(self)

    def dollars(self, usage: Usage) -> float:
        return usage.requests / 100


class _Scripted(Judge):
    def __init__(self, config: Scripted) -> None:
        self.config, self.spent = config, Usage()

    def answers(self, questions: Iterable[Any]):
        for question in questions:
            if self.config.asked == self.config._ends_after:
                raise KeyboardInterrupt
            self.config.asked += 1
            self.spent += Usage(1, 10, 1)
            yield Missing("silence") if self.config._missing(question) else question.truth


def run(latents: Latents, config: JudgeConfig, budget: BudgetConfig | None = None, **settings):
    made = work(latents, config, **settings)
    return explain([made], config, budget or BudgetConfig(), tokenizer())


def scored(latents: Latents) -> dict[int, dict[str, Any]]:
    return {n: one.scores for n, one in read_explanations(latents.run, RUNG).items()}


def test_what_will_be_asked_is_foreseen_to_the_request(latents: Latents) -> None:
    config, scorers = Scripted(), ["detection", "fuzzing", "simulation", "embedding", "autointerp"]
    foreseen = foresee([work(latents, config, scorers=scorers)], tokenizer())
    assert run(latents, config, scorers=scorers).requests == foreseen.requests == config.asked
    assert config.asked == 3 * 2 + 4 * (20 + 20 + 50 + 1 + 1)  # one is a control, too
    assert foreseen.tokens_in > 100 * config.asked and foreseen.tokens_out > config.asked


@pytest.mark.parametrize("ends_after", [2, 60, 84])
def test_a_start_that_is_ended_is_gone_on_with_latent_by_latent(
    latents: Latents, ends_after: int
) -> None:
    first, second = Scripted(ends_after), Scripted()
    with pytest.raises(KeyboardInterrupt):
        run(latents, first)
    done = sum(bool(scores) for scores in scored(latents).values())
    assert done == (ends_after >= 3 + 80) + (ends_after >= 3 + 120)
    run(latents, second)
    assert set(scored(latents)) == set(LATENTS[:3]) and all(scored(latents).values())
    whole = 3 + 80 + 40 + 40  # explanations, then a control and two others
    assert whole <= first.asked + second.asked < whole + 81
    again = Scripted()
    assert run(latents, again).requests == again.asked == 0


def test_other_scorers_are_added_to_what_is_there(latents: Latents) -> None:
    run(latents, judge("oracle"), scorers=["detection"])
    config = judge("oracle")
    asked = run(latents, config, scorers=["detection", "autointerp"])
    assert asked.requests == 3 + 4  # SAEBench's own explanations, and its scores
    assert all(set(own) == {"detection", "autointerp"} for own in scored(latents).values())
    one = read_explanations(latents.run, RUNG)[LATENTS[0]]
    assert one.details["autointerp"]["explanation"] != one.text


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (BudgetConfig(requests=162), "163 requests of budget.requests=162"),
        (BudgetConfig(tokens=1000), "tokens of budget.tokens=1,000"),
        (BudgetConfig(dollars=1.6), "1.63 dollars of budget.dollars=1.6"),
    ],
)
def test_more_than_the_budget_is_refused_before_anything_is_asked(
    latents: Latents, budget: BudgetConfig, said: str
) -> None:
    config = Scripted()
    with pytest.raises(UserError, match=f"found .*{said} foreseen"):
        run(latents, config, budget)
    assert config.asked == 0 and not scored(latents)


def test_what_is_foreseen_may_be_all_of_the_budget(latents: Latents) -> None:
    assert run(latents, Scripted(), BudgetConfig(requests=163, dollars=1.63)).requests == 163


def test_dollars_want_prices() -> None:
    config = judge("openai", model="m", price_in=2.0)
    assert config.dollars(Usage(1, 10**6, 10**6)) is None
    priced = judge("openai", model="m", price_in=2.0, price_out=3.0)
    assert priced.dollars(Usage(1, 10**6, 10**6)) == 5


def test_dollars_without_prices_are_refused(latents: Latents) -> None:
    config = judge("openai", model="m", base_url="http://127.0.0.1:9")
    with pytest.raises(UserError, match="expected judge.price_in and judge.price_out"):
        run(latents, config, BudgetConfig(dollars=1.0))


def test_a_budget_that_is_spent_ends_after_a_latent_and_another_start_goes_on(
    latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As answers may have to be asked for again, or be longer than was foreseen."""
    monkeypatch.setattr("sae_dist.explain.asking.foresee", lambda *_: Usage(1, 1, 1))
    with pytest.raises(UserError, match="the budget is spent: .* to go on"):
        run(latents, Scripted(), BudgetConfig(requests=10))
    assert [bool(own) for own in scored(latents).values()] == [True, False, False]
    run(latents, Scripted())
    assert all(scored(latents).values())


def test_missing_answers_are_counted_and_logged(latents: Latents) -> None:
    def is_missing(question) -> bool:
        return "1\t" in question.prompt and word(77) in question.prompt

    run(latents, Scripted(missing=is_missing), scorers=["detection"])
    one = read_explanations(latents.run, RUNG)[LATENTS[0]]
    assert one.scores["detection"] == 1 and 0 < one.details["detection"]["missing"] < 20
    lines = (latents.folder / "failures.jsonl").read_text().splitlines()
    assert {"latent": LATENTS[0], "of": "detection", "reason": "silence"} in map(json.loads, lines)
    figures = summarise([*read_explanations(latents.run, RUNG).values()])
    told = figures["scores"]["detection"]
    assert told["missing"] == sum("shuffled" not in line for line in lines) < told["asked"] == 60


def test_a_judge_whose_answers_are_mostly_unusable_is_told_of_and_nothing_is_written(
    latents: Latents,
) -> None:
    config = Scripted(missing=lambda question: "1\t" in question.prompt)
    with pytest.raises(UserError, match="found 80 of 80 answers of scripted unusable .*silence"):
        run(latents, config)
    assert all(own == {} for own in scored(latents).values())


def test_a_latent_without_an_explanation_is_asked_about_again(latents: Latents) -> None:
    asked = []

    def is_first(question) -> bool:
        asked.append(question)
        return len(asked) == 1

    run(latents, Scripted(missing=is_first))
    assert set(scored(latents)) == set(LATENTS[1:3])
    run(latents, Scripted())
    assert set(scored(latents)) == set(LATENTS[:3])


def test_another_judge_or_setting_is_not_written_over_unless_told(latents: Latents) -> None:
    run(latents, judge("oracle"))
    for config, settings in ((judge("constant"), {}), (judge("oracle"), {"seed": 1})):
        with pytest.raises(UserError, match="by oracle, judged by oracle.*replace=true"):
            run(latents, config, **settings)
    run(latents, judge("constant"), replace=True)
    assert scored(latents)[LATENTS[0]] == {"detection": 0.5, "fuzzing": 0.5}


def test_given_explanations_are_scored_without_an_explainer(
    latents: Latents, tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text(f'latent,text\n{LATENTS[1]},"one, two"\n{LATENTS[0]},b\n')
    (tmp_path / "mine.json").write_text(json.dumps({str(LATENTS[1]): "one, two", "60": "b"}))
    texts = read_texts(tmp_path / "mine.csv")
    assert texts == read_texts(tmp_path / "mine.json") == {LATENTS[1]: "one, two", LATENTS[0]: "b"}
    config = Scripted()
    run(latents, config, texts=texts, only=None, scorers=["detection", "autointerp"])
    assert config.asked == 3 * (20 + 1)
    assert read_explanations(latents.run, RUNG)[LATENTS[1]].text == "one, two"
    with pytest.raises(UserError, match="other texts"):
        run(latents, config, texts=texts | {LATENTS[0]: "c"}, only=None)


@pytest.mark.parametrize("data", ["{", '{"a": "b"}', "{}", '{"1": ""}', "latent;text\n1;a\n"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, data: str) -> None:
    path = tmp_path / ("mine.csv" if ";" in data else "mine.json")
    path.write_text(data)
    with pytest.raises(UserError, match=f"found explanations={path} .*expected .json as"):
        read_texts(path)


def test_latents_are_drawn_by_the_seed_and_more_of_them_are_the_same_and_others(
    latents: Latents,
) -> None:
    def drawn(num: int, seed: int = 0) -> list[int]:
        return work(latents, judge("oracle"), only=None, num_latents=num, seed=seed).latents

    assert drawn(4) == drawn(6)[:4] and drawn(6) != drawn(6, seed=1)
    few = work(latents, judge("oracle"), only=[0, *LATENTS[:2]])
    assert few.latents == LATENTS[:2] and few.skipped == 1
    with pytest.raises(UserError, match="found no latent of r that fires in 200 windows"):
        run(latents, judge("oracle"), only=[0])


def test_figures_are_over_latents_and_those_of_controls_beside() -> None:
    from sae_dist.latents import Explanation

    def one(latent: int, detection: float, fuzzing: float | None, **details) -> Explanation:
        scores = {"detection": detection, "fuzzing": fuzzing}
        told = {"asked": 20, "missing": 1}
        details = {"detection": told | details, "fuzzing": told}
        who = {"text": "", "explainer": "e", "judge": "j", "of": {}}
        return Explanation(latent=latent, scores=scores, details=details, **who)

    some = [
        one(1, 0.9, 0.7, by_quantile=[1.0, 0.8], shuffled=0.5),
        one(2, 0.7, 0.5, by_quantile=[0.6, None]),
        one(3, 0.8, None, by_quantile=[0.5, 0.4]),
    ]
    found = summarise(some)
    assert found["interpretability"]["mean"] == pytest.approx(0.7)
    assert (found["explained"], found["interpretability"]["latents"]) == (3, 2)
    detection = found["scores"]["detection"]
    assert detection["mean"] == pytest.approx(0.8) and detection["std"] == pytest.approx(0.1)
    assert detection["by_quantile"] == pytest.approx([0.7, 0.6])
    assert detection["shuffled"]["mean"] == 0.5 and detection["shuffled"]["latents"] == 1
    assert detection["missing"] == 3
