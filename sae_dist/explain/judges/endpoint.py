"""A judge behind any endpoint that speaks OpenAI's protocol, through OpenAI's own client."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from omegaconf import MISSING

from sae_dist.common.errors import UserError, one_line
from sae_dist.common.settings import setting
from sae_dist.explain.judges.judge import Judge, JudgeConfig
from sae_dist.explain.questions import Levels, Likeness, Missing, Question, Usage

_OPENAI = "https://api.openai.com/v1"
_PER = 1_000_000  # tokens that a price is of
_MOST_CHOICES = 20  # whose log-probabilities an endpoint tells at most


@dataclass(kw_only=True)
class Endpoint(JudgeConfig):
    """A chat model behind an endpoint that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama, …).

    `model` is its name there, and `base_url` the endpoint (null: OpenAI's). The key is taken from
    the environment's variable `api_key_variable`; an endpoint of one's own may want none. So many
    requests are under way at once (`concurrency`), each waited for up to `timeout` seconds, and
    after a rate limit, an error of the server or a timeout up to `retries` times asked again, when
    the server says so (`Retry-After`), or later and later. `temperature` and `max_tokens` (null:
    not sent) bound an answer, and `options` are sent along as they are. With `logprobs` the
    activations of a simulation are expected values over the digits' log-probabilities, where the
    endpoint tells these. `embedding_model` is for `scorers=[embedding]`. `price_in` and `price_out`
    are dollars for a million tokens.
    """

    name: str = field(default="openai", init=False)
    model: str = MISSING
    base_url: str | None = None
    api_key_variable: str = "OPENAI_API_KEY"
    concurrency: int = setting(8, min=1)
    timeout: float = setting(120.0, above=0)
    retries: int = setting(8, min=0)
    temperature: float | None = setting(0.0, min=0)
    max_tokens: int | None = setting(1000, min=1)
    options: dict[str, Any] = field(default_factory=dict)
    logprobs: bool = False
    embedding_model: str | None = None
    price_in: float | None = setting(None, min=0)
    price_out: float | None = setting(None, min=0)

    @property
    def who(self) -> str:
        return f"{self.name} {self.model}"

    def check(self, scorers: Iterable[str]) -> None:
        if self.base_url is None and not os.environ.get(self.api_key_variable):
            raise UserError(
                f"found no {self.api_key_variable} in the environment; expected OpenAI's key, or "
                "another endpoint; set it, or give judge.base_url=…"
            )
        if "embedding" in scorers and self.embedding_model is None:
            raise UserError(
                "found scorers=embedding without judge.embedding_model; expected a model that "
                "embeds; name one, or leave this scorer out"
            )

    def open(self) -> Judge:
        return _Client(self)

    def dollars(self, usage: Usage) -> float | None:
        if self.price_in is None or self.price_out is None:
            return None
        return (usage.tokens_in * self.price_in + usage.tokens_out * self.price_out) / _PER


class _Client(Judge):
    def __init__(self, config: Endpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "found no package openai; expected it for judge=openai; install it: "
                "pip install 'sae-dist[judge]'"
            ) from error
        self.config, self.spent, self._lock, self._openai = config, Usage(), Lock(), openai
        self._client = openai.OpenAI(
            base_url=config.base_url or _OPENAI,
            api_key=os.environ.get(config.api_key_variable) or "none",
            timeout=config.timeout,
            max_retries=config.retries,
        )

    def answers(self, questions: Iterable[Question]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        pool = ThreadPoolExecutor(self.config.concurrency)
        try:
            for question in questions:
                waiting.append(pool.submit(self._answer, question))
                if len(waiting) >= 2 * self.config.concurrency:  # so that none has to wait for one
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, question: Question) -> Any:
        """Ask, and once more if the answer cannot be read, with what was wrong."""
        messages = question.messages()
        found: Any = Missing("")
        for _ in range(2):
            try:
                if isinstance(question.form, Likeness):
                    return self._likeness(question)
                said, choice = self._said(question, messages)
            except self._openai.OpenAIError as error:
                return self._missing(error)
            except (
                ValueError,
                AttributeError,
                IndexError,
                TypeError,
            ) as error:  # a body of its own
                found = Missing(f"no body of the protocol's form ({type(error).__name__})")
                continue
            found = question.form.read(said)
            if not isinstance(found, Missing):
                return self._expected(question.form, choice, found)
            messages = [
                *messages,
                {"role": "assistant", "content": said or "…"},
                {"role": "user", "content": f"That cannot be read ({found.reason}). {_AGAIN}"},
            ]
        return found

    def _said(self, question: Question, messages: list[dict[str, str]]) -> tuple[str, Any]:
        """The text of an answer, and all that came with it."""
        config = self.config
        asked: dict[str, Any] = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        asked = {key: value for key, value in asked.items() if value is not None}
        if config.logprobs and isinstance(question.form, Levels):
            asked |= {"logprobs": True, "top_logprobs": _MOST_CHOICES}
        asked |= {"model": config.model, "messages": messages}
        reply = self._client.chat.completions.create(**asked, extra_body=config.options or None)
        choice = reply.choices[0]
        said = choice.message.content or ""
        self._count(getattr(reply, "usage", None))
        return said, choice

    def _likeness(self, question: Question) -> list[float]:
        texts = [question.prompt, *question.form.texts]
        reply = self._client.embeddings.create(model=str(self.config.embedding_model), input=texts)
        self._count(getattr(reply, "usage", None))
        rows = sorted(reply.data, key=lambda row: row.index)
        vectors = np.array([row.embedding for row in rows], np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return (vectors[1:] @ vectors[0]).tolist()

    def _expected(self, form: Any, choice: Any, found: Any) -> Any:
        """Of what was written the expected values, where log-probabilities came along."""
        told = getattr(getattr(choice, "logprobs", None), "content", None)
        if not told or not isinstance(form, Levels):
            return found
        values = [v for token in told if (v := _mean_level(token, form.most)) is not None]
        return values[-len(found) :] if len(values) == len(found) else found

    def _count(self, usage: Any) -> None:
        with self._lock:
            self.spent += Usage(
                1,
                getattr(usage, "prompt_tokens", None) or 0,
                getattr(usage, "completion_tokens", None) or 0,
            )

    def _missing(self, error: Exception) -> Missing:
        """What an error of one request is; UserError where others would fare no better."""
        told, errors = one_line(str(error)), self._openai
        if isinstance(error, errors.APIStatusError | errors.APITimeoutError):
            final = (
                errors.AuthenticationError,
                errors.PermissionDeniedError,
                errors.NotFoundError,
                errors.RateLimitError,
            )
            if not isinstance(error, final):
                return Missing(told)
        if isinstance(error, errors.APIResponseValidationError):
            return Missing(told)
        raise UserError(
            f"the judge {self.config.model} at {self.config.base_url or _OPENAI} cannot be asked "
            f"({told}); expected an answer within judge.retries={self.config.retries}; what is "
            "scored is kept: mend it, and start the same command again"
        ) from error


_AGAIN = "Answer again, in the form that was asked for, and with nothing else."


def _mean_level(token: Any, most: int) -> float | None:
    """The expected number at a token that is one; None at any other."""
    if not _is_level(token.token, most):
        return None
    told = [(int(c.token), c.logprob) for c in token.top_logprobs if _is_level(c.token, most)]
    weights = [math.exp(logprob) for _, logprob in told]
    if not sum(weights):
        return float(token.token)
    return sum(w * level for w, (level, _) in zip(weights, told, strict=True)) / sum(weights)


def _is_level(text: str, most: int) -> bool:
    return text.strip().isdecimal() and int(text) <= most
