"""Make a corpus of conversations from texts that are at hand.

    python -m examples.reproduce.conversations FOLDER
    python -m examples.reproduce.conversations FOLDER --sources public_domain --ask continuation \
        --chat smollm2

Asked is what Python's code does (answered by its docstring), or how a passage goes on. Writes
`train.jsonl` (whole conversations in the prefixes of `+chat@text=small_lm`, or another, column
`text`) to finetune on, and `prompts.jsonl` (questions never trained on, `prompt`, and their
`answer`) to ask later.
"""

import argparse
import ast
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sae_dist.apps.terminal import ended_in_one_line
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_all
from sae_dist.common.log import log_info
from sae_dist.config import conf_folder
from sae_dist.text import TextConfig, texts

_LEAST_CHARACTERS = 20
_PROMPT_WORDS, _ANSWER_WORDS = 30, 60
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a user asks, and what the model shall answer."""

    prompt: str
    answer: str


def about_code(sources: Iterable[str]) -> Iterator[Conversation]:
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


def continuations(documents: Iterable[str]) -> Iterator[Conversation]:
    """Ask how each document goes on after its first 30 words; the answer is the next 60.

    Shorter ones are left out.
    """
    for document in documents:
        words = document.split()
        prompt, answer = words[:_PROMPT_WORDS], words[_PROMPT_WORDS:][:_ANSWER_WORDS]
        if len(answer) == _ANSWER_WORDS:
            yield Conversation(f"How does this go on?\n{' '.join(prompt)}", " ".join(answer))


QUESTIONS = {"docstrings": about_code, "continuation": continuations}


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


def write_corpus(folder: Path, asked: argparse.Namespace) -> None:
    """Write both files, unless they are there."""
    paths = train_path, prompts_path = folder / "train.jsonl", folder / "prompts.jsonl"
    if all(path.is_file() for path in paths):
        log_info(f"{folder} holds a corpus already: nothing to do")
        return
    chat = conf_folder() / "chat" / f"{asked.chat}.yaml"
    template = yaml.safe_load(chat.read_text())["template"]
    found = QUESTIONS[asked.ask](texts(TextConfig(path=asked.sources)))
    train, held_out = split(found, asked.held_out_every)
    if not held_out:
        raise UserError(
            f"found {len(train)} texts to ask about in {asked.sources}; expected at least "
            f"{asked.held_out_every}; give Python sources with docstrings, or longer texts"
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = ({"text": template.replace("{document}", c.prompt) + c.answer} for c in train)
    write_all([(train_path, [_lines(rows)]), (prompts_path, [_lines(map(asdict, held_out))])])
    log_info(f"{len(train):,} conversations in {train_path}, {len(held_out):,} in {prompts_path}")


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sources", default="stdlib", help="a text.path, as of a harvest")
    parser.add_argument("--ask", choices=QUESTIONS, default="docstrings")
    chats = sorted(path.stem for path in (conf_folder() / "chat").glob("*.yaml"))
    parser.add_argument("--chat", choices=chats, default="small_lm", help="whose prefixes")
    parser.add_argument("--held-out-every", type=int, default=8, help="of so many one is kept")
    asked = parser.parse_args()
    with ended_in_one_line():
        write_corpus(asked.folder, asked)


if __name__ == "__main__":
    main()
