"""Questions and answers that every machine has: what does this code do? Its docstring."""

import ast
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LEAST_CHARACTERS = 20
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a user asks, and what the model shall answer."""

    prompt: str
    answer: str

    def text(self, template: str) -> str:
        """The whole of it: the prompt in place of a chat template's `{document}`, the answer."""
        return template.replace("{document}", self.prompt) + self.answer


def conversations(sources: Iterable[str]) -> Iterator[Conversation]:
    """Ask about every documented function and class of Python sources, never the same twice.

    A prompt shows its first line, `def name(arguments):` or `class Name(bases):`; the answer is
    its docstring. Sources that do not parse are left out.
    """
    asked: set[str] = set()
    for source in sources:
        for node in _documented(source):
            prompt = f"What does this do?\n{_first_line(node)}"
            answer = ast.get_docstring(node) or ""
            if len(answer) >= _LEAST_CHARACTERS and prompt not in asked:
                asked.add(prompt)
                yield Conversation(prompt, answer)


def split(
    found: Iterable[Conversation], held_out_every: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Those to train on and those to ask later: of every `held_out_every` the last one."""
    parts: tuple[list[Conversation], list[Conversation]] = ([], [])
    for number, conversation in enumerate(found, start=1):
        parts[number % held_out_every == 0].append(conversation)
    return parts


def _documented(source: str) -> Iterator[_Documented]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the source's own, of its escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, _Documented):
            yield node


def _first_line(node: _Documented) -> str:
    """The head of a definition on one line, without its decorators."""
    fields = dict(ast.iter_fields(node)) | {"body": [], "decorator_list": []}
    return ast.unparse(ast.copy_location(type(node)(**fields), node)).strip()
