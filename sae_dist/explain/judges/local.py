"""A judge on this machine: a language model of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from omegaconf import MISSING

from sae_dist.common.errors import UserError
from sae_dist.common.settings import setting
from sae_dist.explain.judges.judge import Judge, JudgeConfig
from sae_dist.explain.questions import Levels, Likeness, Question, Sentence, Usage
from sae_dist.lm.config import LMConfig, LMDtype, local_folder

_CAUSAL, _EMBEDDING = "AutoModelForCausalLM", "embedding"
_UNSAID = "unknown"  # in place of each number: they are all asked for at once (Bills et al. 2023)


@dataclass(kw_only=True)
class Local(JudgeConfig):
    """A language model that transformers loads, with its chat template if it has one.

    `model` is a folder or a name on the Hub, at `revision`; or `gguf_file` in it, whose weights
    become the `fastest` dtype if `dtype` does not say otherwise. Numbers are never written: each is
    the expected value over the digits' probabilities where it would stand, all of an answer in one
    pass, so that none can be malformed. Where 10 is no token the scale ends at 9. Embeddings are
    the mean of the last layer's activations. With `auto_class=AutoModel` it is an encoder of
    sentences (MiniLM, say), which has its special tokens around each and cannot write: in place of
    an explanation it lists the tokens that are marked most often. `batch_size` questions pass at
    once.
    """

    name: str = field(default="local", init=False)
    model: str = MISSING
    revision: str | None = None
    gguf_file: str | None = None
    auto_class: str = _CAUSAL
    dtype: LMDtype = LMDtype.auto
    batch_size: int = setting(8, min=1)

    @property
    def who(self) -> str:
        return f"{self.name} {self.model}"

    def check(self, scorers: Iterable[str]) -> None:
        local_folder(self._lm, "judge.model")
        if self.auto_class != _CAUSAL and (others := sorted(set(scorers) - {_EMBEDDING})):
            raise UserError(
                f"found scorers={others} with judge.auto_class={self.auto_class}, which only "
                f"embeds; expected scorers=[{_EMBEDDING}]; or take judge.auto_class={_CAUSAL}"
            )

    @property
    def _lm(self) -> LMConfig:
        is_unsaid = self.gguf_file is not None and self.dtype is LMDtype.auto
        dtype = LMDtype.fastest if is_unsaid else self.dtype
        return LMConfig(
            name=self.model,
            revision=self.revision,
            gguf_file=self.gguf_file,
            auto_class=self.auto_class,
            dtype=dtype,
        )

    def open(self) -> Judge:
        import torch

        from sae_dist.lm import load_lm

        device = "cuda" if torch.cuda.is_available() else "cpu"
        lm = load_lm(self._lm, device, key="judge.model")
        return _Model(lm, self.batch_size, embeds_only=self.auto_class != _CAUSAL)


class _Model(Judge):
    def __init__(self, lm: Any, batch_size: int, embeds_only: bool = False) -> None:
        self.model, self.tokenizer, self._batch_size = lm.model, lm.tokenizer, batch_size
        self.spent, self._embeds_only = Usage(), embeds_only
        if not embeds_only:
            self._digits = _digits(self.tokenizer)
            self.scale = len(self._digits) - 1

    def answers(self, questions: Iterable[Question]) -> Iterator[Any]:
        import torch

        source = iter(questions)
        ways = {Sentence: self._sentences, Levels: self._levels, Likeness: self._likeness}
        while batch := list(islice(source, self._batch_size)):
            found: dict[int, Any] = {}
            for form, way in ways.items():
                places = [i for i, q in enumerate(batch) if isinstance(q.form, form)]
                if places:
                    with torch.no_grad():
                        found |= zip(places, way([batch[i] for i in places]), strict=True)
            self.spent.requests += len(batch)
            yield from (found[i] for i in range(len(batch)))

    def _sentences(self, questions: Sequence[Question]) -> list[Any]:
        """The likeliest token after the other."""
        if self._embeds_only:
            return [question.truth for question in questions]
        from sae_dist.lm import rollouts

        most = max(question.form.num_tokens for question in questions)
        rows = [self._ids(question) for question in questions]
        said = rollouts(self.model, rows, [0] * len(rows), most, temperature=1e-6)
        self.spent += Usage(0, sum(map(len, rows)), sum(map(len, said)))
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [q.form.read(text) for q, text in zip(questions, texts, strict=True)]

    def _levels(self, questions: Sequence[Question]) -> list[list[float]]:
        """Expected numbers: the probabilities of what stands after each label's tab."""
        rows: list[list[int]] = []
        places: list[list[int]] = []
        for question in questions:
            row = self._ids(question)
            places.append([])
            for label in question.form.labels:
                row += self._encoded(f"{label}\t")
                places[-1].append(len(row) - 1)
                row += self._encoded(f"{_UNSAID}\n")
            rows.append(row)
        ids_NS, mask_NS = self._padded(rows)
        shifts = (ids_NS.shape[1] - mask_NS.sum(1)).tolist()
        places = [[p + shift for p in own] for own, shift in zip(places, shifts, strict=True)]
        kept = sorted({place for own in places for place in own})
        logits_NKV = self.model(
            input_ids=ids_NS,
            attention_mask=mask_NS,
            position_ids=(mask_NS.cumsum(1) - 1).clamp_min(0),
            logits_to_keep=ids_NS.new_tensor(kept),
        ).logits
        self.spent += Usage(0, int(mask_NS.sum()), 0)
        index = {place: i for i, place in enumerate(kept)}
        found = []
        for logits_KV, own, question in zip(logits_NKV, places, questions, strict=True):
            digits = self._digits[: question.form.most + 1]
            p_LD = logits_KV[[index[place] for place in own]][:, digits].double().softmax(1)
            found.append((p_LD @ p_LD.new_tensor(range(len(digits)))).tolist())
        return found

    def _likeness(self, questions: Sequence[Question]) -> list[list[float]]:
        from torch.nn.functional import cosine_similarity

        return [
            cosine_similarity(*self._embedded(q.prompt, q.form.texts)).tolist() for q in questions
        ]

    def _embedded(self, prompt: str, texts: Sequence[str]) -> tuple[Any, Any]:
        """Mean activations of the last layer, [1, D] and [n, D]."""
        import torch

        found = []
        specials = self._embeds_only
        rows = [self._encoded(text, specials) or [0] for text in (prompt, *texts)]
        for start in range(0, len(rows), self._batch_size):
            ids_NS, mask_NS = self._padded(rows[start : start + self._batch_size])
            hidden_NSD = self.model.base_model(
                input_ids=ids_NS,
                attention_mask=mask_NS,
                position_ids=(mask_NS.cumsum(1) - 1).clamp_min(0),
            ).last_hidden_state.double()
            weights_NS1 = mask_NS[..., None].double()
            found.append((hidden_NSD * weights_NS1).sum(1) / weights_NS1.sum(1))
            self.spent += Usage(0, int(mask_NS.sum()), 0)
        all_ND = torch.cat(found)
        return all_ND[:1], all_ND[1:]

    def _ids(self, question: Question) -> list[int]:
        """The conversation up to where the answer begins."""
        messages = question.messages()
        if not self.tokenizer.chat_template:
            text = "\n\n".join(turn["content"] for turn in messages) + "\n\n"
            return list(self.tokenizer(text)["input_ids"])
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self._encoded(text)

    def _encoded(self, text: str, specials: bool = False) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=specials))

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Token ids and where they count, [n, S], filled up from the left."""
        import torch

        longest = max(map(len, rows))
        ids = [[0] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _digits(tokenizer: Any) -> list[int]:
    """The tokens of 0, 1, … after a tab, up to 10 where that is one, to 9 where it is not.

    Raises:
        UserError: a digit is no token.
    """
    before = tokenizer.encode("1\t", add_special_tokens=False)
    found: list[int] = []
    for number in range(11):
        ids = tokenizer.encode(f"1\t{number}", add_special_tokens=False)
        if ids[:-1] != before or ids[-1] in found:  # the latter where it is unknown
            break
        found.append(ids[-1])
    if len(found) < 10:
        raise UserError(
            f"found no token for {len(found)} after a tab in the judge's tokenizer; expected one "
            "for each digit; choose another judge.model"
        )
    return found
