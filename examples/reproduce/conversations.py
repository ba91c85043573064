"""Make a corpus of conversations that every machine has: what does this code do? Its docstring.

    python -m examples.reproduce.conversations FOLDER

Writes `train.jsonl` (whole conversations in the prefixes of `+chat@text=small_lm`, column `text`)
to finetune on, and `prompts.jsonl` (questions never trained on, `prompt`, and their `answer`) to
ask later.
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
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a user asks, and what the model shall answer."""

    prompt: str
    answer: str


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


def write_corpus(folder: Path, sources: str, held_out_every: int) -> None:
    """Write both files, unless they are there."""
    paths = train_path, prompts_path = folder / "train.jsonl", folder / "prompts.jsonl"
    if all(path.is_file() for path in paths):
        log_info(f"{folder} holds a corpus already: nothing to do")
        return
    template = yaml.safe_load((conf_folder() / "chat" / "small_lm.yaml").read_text())["template"]
    train, held_out = split(conversations(texts(TextConfig(path=sources))), held_out_every)
    if not held_out:
        raise UserError(
            f"found {len(train)} documented functions in {sources}; expected at least "
            f"{held_out_every}; give Python sources with docstrings"
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
    parser.add_argument("--sources", default="stdlib", help="Python files, one or a folder of them")
    parser.add_argument("--held-out-every", type=int, default=8, help="of so many one is kept")
    asked = parser.parse_args()
    with ended_in_one_line():
        write_corpus(asked.folder, asked.sources, asked.held_out_every)


if __name__ == "__main__":
    main()
