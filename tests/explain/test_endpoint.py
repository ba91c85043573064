"""An endpoint that misbehaves is survived, and one that cannot be asked is told in one line."""

import math

import pytest

pytest.importorskip("openai", reason="needs the package openai")

from sae_dist.common.errors import UserError
from sae_dist.explain.questions import Levels, Likeness, Missing, Question, Sentence
from tests.explain.made_up import judge
from tests.explain.server import failing, saying, sending, serving, sleeping, well

TWO = Question(prompt="of\n\n1\ta\n2\tb", form=Levels(("1", "2")), truth=[1, 1], task="judge")


def ask(server, *questions: Question, **settings):
    settings = {"concurrency": 1, "timeout": 20.0, "retries": 3, **settings}
    client = judge("openai", model="m", base_url=server.url, **settings).open()
    return list(client.answers(questions)), client


@pytest.mark.parametrize(
    "behaviour",
    [
        failing(429, Retry_After="0.01"),
        failing(500, Retry_After_Ms="5"),
        failing(503, Retry_After_Ms="5"),
        failing(408, Retry_After_Ms="5"),
    ],
    ids=["rate limit", "server error", "overloaded", "request timeout"],
)
def test_what_passes_is_asked_again_when_the_server_says_so(behaviour) -> None:
    with serving(behaviour, behaviour) as server:
        answers, client = ask(server, TWO)
    assert answers == [[1, 1]] and len(server.requests) == 3
    assert client.spent.requests == 1 and client.spent.tokens_in == 100


def test_an_answer_that_comes_too_late_is_asked_for_again() -> None:
    with serving(sleeping(1.5)) as server:
        answers, _ = ask(server, TWO, timeout=0.5)
    assert answers == [[1, 1]] and len(server.requests) == 2


@pytest.mark.parametrize(
    "behaviour",
    [
        saying("1\t1"),
        saying(""),
        saying(None),
        saying("I cannot say."),
        saying("1\t1\n2\t7"),
        sending(b'{"choices": []}'),
        sending(b'{"choices": [{"mess'),
        sending(b"<html>busy</html>"),
        sending(b"[]"),
    ],
)
def test_a_malformed_answer_is_asked_for_once_more_and_then_missing(behaviour) -> None:
    with serving(behaviour) as server:
        assert ask(server, TWO)[0] == [[1, 1]]
        assert len(server.requests) == 2
    with serving(behaviour, behaviour) as server:
        answers, _ = ask(server, TWO, TWO)
        assert isinstance(answers[0], Missing) and answers[1] == [1, 1]
        assert len(server.requests) == 3


def test_asked_again_it_is_told_what_was_wrong() -> None:
    with serving(saying("1\t1")) as server:
        ask(server, TWO)
    told = server.requests[1]["messages"]
    assert told[-2] == {"role": "assistant", "content": "1\t1"}
    assert "1 numbers for 2 lines" in told[-1]["content"]


@pytest.mark.parametrize("status", [400, 422, 500])
def test_one_question_that_is_refused_is_missing_and_the_others_are_not(status: int) -> None:
    refused = [failing(status, Retry_After_Ms="1")] * (4 if status == 500 else 1)
    with serving(well, *refused) as server:
        answers, _ = ask(server, TWO, TWO, TWO)
    assert [isinstance(one, Missing) for one in answers] == [False, True, False]
    assert "not now" in answers[1].reason


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_where_no_question_would_fare_better_it_ends_in_one_line(status: int) -> None:
    with (
        serving(well, *[failing(status, Retry_After_Ms="1")] * 9) as server,
        pytest.raises(UserError, match="the judge m at http.*not now.*start the same command"),
    ):
        ask(server, TWO, TWO)


def test_an_endpoint_that_is_not_there_ends_in_one_line() -> None:
    with serving() as server:
        pass
    with pytest.raises(UserError, match="cannot be asked"):
        ask(server, TWO, retries=0)


def test_answers_come_in_order_whoever_is_done_first() -> None:
    texts = [f"number {i}" for i in range(20)]
    behaviours = [lambda body: saying(body["messages"][0]["content"])(body)] * 20
    with serving(*behaviours) as server:
        questions = [Question(prompt=text, form=Sentence(), truth="") for text in texts]
        answers, client = ask(server, *questions, concurrency=4)
    assert answers == texts and client.spent.tokens_out == 200


def test_settings_are_sent_as_they_are() -> None:
    with serving() as server:
        ask(server, TWO, temperature=None, max_tokens=None, options={"max_completion_tokens": 9})
        ask(server, TWO, temperature=0.5, max_tokens=7)
    first, second = server.requests
    assert first["max_completion_tokens"] == 9 and not {"temperature", "max_tokens"} & first.keys()
    assert (second["temperature"], second["max_tokens"], second["model"]) == (0.5, 7, "m")


def test_with_log_probabilities_numbers_are_expected_values() -> None:
    def token(text: str, **p: float):
        told = [{"token": t, "logprob": math.log(q)} for t, q in p.items()]
        return {"token": text, "logprob": -1.0, "top_logprobs": told}

    nine = {"9": 0.5, "7": 0.25, "no": 0.2, "99": 0.05}
    content = [token("a\t"), token("9", **nine), token("\nb\t"), token("0", **{"0": 1.0})]
    said = saying("a\t9\nb\t0", logprobs={"content": content})
    question = Question(prompt="p", form=Levels(("a", "b"), 10), truth=[9, 0])
    with serving(said) as server:
        answers, _ = ask(server, question, logprobs=True)
    assert answers == [[pytest.approx((9 * 0.5 + 7 * 0.25) / 0.75), 0]]
    assert server.requests[0]["top_logprobs"] == 20


def test_likeness_is_the_cosine_of_the_endpoints_embeddings() -> None:
    question = Question(prompt="x", form=Likeness(("a", "b")), truth=[1, 0])
    with serving() as server:
        answers, _ = ask(server, question, embedding_model="e")
    assert answers == [pytest.approx([1 / 2**0.5, 1 / 5**0.5])]
    assert server.requests[0]["input"] == ["x", "a", "b"]


def test_what_it_cannot_do_is_refused_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="found no OPENAI_API_KEY"):
        judge("openai", model="m").check([])
    with pytest.raises(UserError, match="judge.embedding_model"):
        judge("openai", model="m", base_url="http://here").check(["embedding"])
