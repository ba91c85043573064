"""Labelled texts that need no download: of the language model's own vocabulary, and of Python."""

import ast
import io
import keyword
import platform
import re
import tokenize
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

import sae_dist.text as corpora  # lazily: what only declares needs no transformers
from sae_dist.common.seeds import generator
from sae_dist.evaluate.config import ProbesConfig, columns_of
from sae_dist.evaluate.labelled import LabelledTexts, Sample, labelled_texts, read_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "{word} has the first letter:"
_NUM_EXAMPLES = 10  # in context
_TRAIN_SHARE = 0.8
_PACKAGES = frozenset("asyncio email importlib logging unittest xml".split())
_LEAST_CHARACTERS = 40  # of a docstring or a function
_CONTEXT_CHARACTERS = 300  # before a token of a program
_NUM_MODULES = 200
_TOKENS_A_MODULE = 20  # of each kind
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTED = ast.Module | ast.ClassDef | _FUNCTION
_KINDS = {tokenize.NUMBER: "number", tokenize.OP: "operator", tokenize.STRING: "string"}
_WORD = re.compile(r" ?([A-Za-z]+)")


def first_letter(tokenizer: "PreTrainedTokenizerBase", seed: int) -> Iterator[Sample]:
    """Words of the vocabulary, after ten others with their first letters, by that letter.

    Read is the word's token in "… has the first letter:". A fifth of the words are tested on;
    the others in a prompt are of the same part (Chanin et al. 2024; SAEBench 0.6).
    """
    words = alphabetic_tokens(tokenizer)
    random = generator(seed, "first_letter")
    order = [words[place] for place in random.permutation(len(words))]
    border = int(len(order) * _TRAIN_SHARE)
    for part, is_test in ((order[:border], False), (order[border:], True)):
        for place, word in enumerate(part):
            num = min(_NUM_EXAMPLES, len(part) - 1)
            chosen = random.choice(len(part) - 1, num, replace=False)
            examples = (part[int(other) + (other >= place)] for other in chosen)
            before = "".join(f"\n{PROMPT.format(word=w)} {letter_of(w)}" for w in examples) + "\n"
            text = before + PROMPT.format(word=word)
            span = len(before), len(before) + len(word)
            yield Sample(text, letter_of(word), span=span, is_test=is_test)


def alphabetic_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The tokens of A to Z and a to z alone, perhaps after a blank, in the order of their ids."""
    special = set(tokenizer.all_special_tokens)
    tokens = sorted((id, t) for t, id in tokenizer.get_vocab().items() if t not in special)
    words = []
    for _, token in tokens:
        word = tokenizer.convert_tokens_to_string([token])
        if token.startswith("▁") and not word.startswith(" "):  # SentencePiece drops it
            word = f" {word}"
        if _WORD.fullmatch(word):
            words.append(word)
    return list(dict.fromkeys(words))


def letter_of(word: str) -> str:
    """The first letter, as a capital."""
    return word.strip()[0].upper()


def stdlib_packages(tokenizer: "PreTrainedTokenizerBase", seed: int) -> Iterator[Sample]:
    """Functions and docstrings of six packages of Python's library: by package, and which it is."""
    for name, source in corpora.stdlib_modules():
        package = name.partition("/")[0]
        if package not in _PACKAGES:
            continue
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _DOCUMENTED)]
        for node in nodes:
            if docstring := ast.get_docstring(node):
                node.body[0] = ast.Pass()
                if len(docstring) >= _LEAST_CHARACTERS:
                    yield Sample(docstring, package, "docstring")
        for function in (node for node in nodes if isinstance(node, _FUNCTION)):
            if len(code := ast.unparse(function)) >= _LEAST_CHARACTERS:
                yield Sample(code, package, "code")


def token_kind(tokenizer: "PreTrainedTokenizerBase", seed: int) -> Iterator[Sample]:
    """Tokens of Python's library, at the end of what stands before them, by their part of speech.

    Python says which it is: keyword, name, number, operator or string.
    """
    for name, source in islice(corpora.stdlib_modules(), _NUM_MODULES):
        starts = np.cumsum([0, *map(len, io.StringIO(source))])
        found: dict[str, list[tuple[int, int]]] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if kind := _kind(token):
                begin, end = (
                    int(starts[at - 1]) + column for at, column in (token.start, token.end)
                )
                found.setdefault(kind, []).append((begin, end))
        for kind, places in found.items():
            order = generator(seed, "token_kind", name, kind).permutation(len(places))
            for begin, end in (places[place] for place in order[:_TOKENS_A_MODULE]):
                first = max(0, begin - _CONTEXT_CHARACTERS)
                yield Sample(source[first:end], kind, span=(begin - first, end - first))


def _kind(token: tokenize.TokenInfo) -> str | None:
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name"
    return _KINDS.get(token.type)


TASKS: dict[str, Callable[["PreTrainedTokenizerBase", int], Iterator[Sample]]] = {
    "stdlib_packages": stdlib_packages,
    "token_kind": token_kind,
    "first_letter": first_letter,
}


def read_texts(
    data: str, tokenizer: "PreTrainedTokenizerBase", config: ProbesConfig, num_positions: int
) -> LabelledTexts:
    """A built-in data set, or that of a file; raises UserError as `labelled_texts` does."""
    samples = TASKS[data](tokenizer, config.seed) if data in TASKS else read_samples(data)
    name = data if data in TASKS else columns_of(data)[0].stem
    return labelled_texts(name, samples, tokenizer, config, num_positions)


def identity_of(data: str) -> list[str]:
    """The name, and what tells it from others of that name: Python's version, or a file's hash."""
    if data in TASKS:
        return [data, platform.python_version()]
    return [data, sha256(columns_of(data)[0].read_bytes()).hexdigest()]
