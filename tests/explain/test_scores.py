"""Judges whose scores are known beforehand prove what scorers ask and count."""

import numpy as np
import pytest

from sae_dist.explain import Examples, ExamplesConfig, Sample
from sae_dist.explain.questions import Levels, Missing, Question, Sentence
from sae_dist.explain.scorers import SCORERS
from sae_dist.explain.scorers.ranks import auroc
from sae_dist.latents import Latents
from tests.explain.made_up import LATENTS, judge, tokenizer

BALANCED = ["detection", "fuzzing"]


@pytest.fixture(scope="module")
def samples(watched: Latents) -> list[Sample]:
    examples = Examples(watched, tokenizer(), ExamplesConfig(), 0)
    return [sample for latent in LATENTS if (sample := examples.of(latent))]


def score(name: str, by: str, sample: Sample, shown: int = 5):
    scorer = SCORERS.named(name)(shown)
    questions = scorer.questions(sample, "multiples of a number")
    return scorer.score(sample, questions, list(judge(by).open().answers(questions)))


@pytest.mark.parametrize("shown", [1, 5, 7])
@pytest.mark.parametrize("name", SCORERS.names())
def test_an_oracle_has_one_everywhere(samples: list[Sample], name: str, shown: int) -> None:
    found, details = score(name, "oracle", samples[0], shown)
    assert found == pytest.approx(1, abs=1e-12)
    assert details.get("by_quantile", [1] * 10) == pytest.approx([1] * 10)


def test_a_constant_judge_has_a_half_and_no_correlation(samples: list[Sample]) -> None:
    for name in (*BALANCED, "embedding"):
        assert score(name, "constant", samples[0])[0] == 0.5
    _, details = score("detection", "constant", samples[0])
    assert (details["true_positive_rate"], details["false_positive_rate"]) == (1, 1)
    assert score("simulation", "constant", samples[0])[0] is None


def test_a_random_judge_has_about_a_half_and_no_correlation(samples: list[Sample]) -> None:
    for name in (*BALANCED, "embedding"):
        found = [score(name, "random", sample)[0] for sample in samples]
        assert np.mean(found) == pytest.approx(0.5, abs=0.06)
    found = [score("simulation", "random", sample)[0] for sample in samples]
    assert np.mean(found) == pytest.approx(0, abs=0.05)


def test_fuzzing_marks_as_many_tokens_where_the_latent_does_not_fire(samples) -> None:
    def marks(active: bool) -> list[int]:
        told = zip(samples[0].judged, (line for q in asked for line in _texts(q)), strict=True)
        return [text.count("w") for window, text in told if (window.quantile >= 0) is active]

    def _texts(question: Question) -> list[str]:
        lines = question.prompt.splitlines()[2:]
        return ["".join(part.partition("»")[0] for part in line.split("«")[1:]) for line in lines]

    asked = SCORERS.named("fuzzing")(5).questions(samples[0], "")
    assert len(set(marks(False))) == 1
    assert np.mean(marks(False)) == pytest.approx(np.mean(marks(True)), abs=0.51)


def test_what_is_missing_is_left_out_of_a_balanced_accuracy(samples: list[Sample]) -> None:
    scorer = SCORERS.named("detection")(5)
    questions = scorer.questions(samples[0], "")
    right = [question.truth for question in questions]
    assert scorer.score(samples[0], questions, [Missing(""), *right[1:]])[0] == 1
    assert scorer.score(samples[0], questions, [Missing("")] * len(right))[0] is None
    flipped = [[1 - v for v in answer] for answer in right]
    assert scorer.score(samples[0], questions, flipped)[0] == 0


def test_a_judge_that_says_yes_to_all_but_more_surely_where_it_is_has_an_auroc(samples) -> None:
    scorer = SCORERS.named("detection")(5)
    questions = scorer.questions(samples[0], "")
    surer = [[0.6 + 0.1 * value for value in question.truth] for question in questions]
    found, details = scorer.score(samples[0], questions, surer)
    assert (found, details["auroc"]) == (0.5, 1)
    assert auroc([0.1, 0.4, 0.4, 0.9, float("nan")], [False, True, False, True, True]) == 3.5 / 4
    assert auroc([0.1, 0.4], [True, True]) is None


def test_a_judge_that_finds_nothing_has_ten_of_saebenchs_fourteen_at_most(samples) -> None:
    scorer = SCORERS.named("autointerp")(5)
    (question,) = questions = scorer.questions(samples[0], "")
    assert len(question.truth) == 14 and sum(question.truth) >= 4
    found, details = scorer.score(samples[0], questions, [[0] * 14])
    assert found == (14 - details["active"]) / 14 <= 10 / 14


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1\t1\n2\t0", [1, 0]),
        ("Here you are:\n1: 1\n\n2: 0\n", [1, 0]),
        ("<think>1\t0\n2\t0\n</think>1 1\n2 0.5", [1, 0.5]),
        ("1\n0", [1, 0]),
    ],
)
def test_answers_are_read_with_what_models_put_around_them(text: str, found) -> None:
    assert Levels(("1", "2")).read(text) == found


@pytest.mark.parametrize("text", ["", "1\t1", "1\t1\n2\t0\n3\t0", "1\tyes\n2\tno", "1\t1\n2\t2"])
def test_answers_of_another_form_are_missing(text: str) -> None:
    assert isinstance(Levels(("1", "2")).read(text), Missing)


def test_a_sentence_is_the_first_line_without_what_stands_before_it() -> None:
    read = Sentence().read
    assert read('<think>hm\n</think>\n Explanation: "words for colours"\nand more') == (
        "words for colours"
    )
    assert isinstance(read("<think>on and on"), Missing)


def test_a_chat_has_its_task_before_the_first_turn_and_turns_in_order() -> None:
    question = Question(prompt="c", form=Sentence(), truth="", task="t", demos=(("a", "b"),))
    assert question.messages() == [
        {"role": "user", "content": "t\n\na"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
