"""The shell commands that the documents show, as bash itself takes them apart."""

import ast
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.apps.commands import ROOT

# A line of code, or a span in a sentence, that begins so is a command.
_COMMAND = re.compile(
    r"(?:[A-Z_]+=(?:'[^']*'|\S+) )*(?:\.venv/bin/)?(?:python3? |sae-dist |torchrun "
    r"|accelerate launch |sbatch |make [\w-]+ *(?:#|$)|launch/\w+\.py )"
)
_SPAN = re.compile(r"`([^`]+)`")
# Bash that finds no program: whatever is called comes to the handler, argument by argument.
_BASH = """
command_not_found_handle() { printf '%s\\0' "$#" "$@" >>"$CALLS"; }
cd() { :; }; source() { :; }; export() { declare -g "$@"; }
"""


@dataclass(frozen=True)
class Call:
    """The words of one command. `is_part`: a `…` stood for others."""

    words: tuple[str, ...]
    is_part: bool


def calls_in(path: Path) -> list[Call]:
    """Every command that a file shows, in order, each once.

    Of Markdown: blocks of bash as they are; of other blocks the lines, and of sentences the spans
    of code, that begin as commands do. Of sources the lines and spans of the first docstring, or
    of all comments.
    """
    text = path.read_text()
    if path.suffix == ".md":
        scripts = list(_in_markdown(text))
    elif path.suffix == ".py":
        scripts = list(_in_prose(ast.get_docstring(ast.parse(text)) or ""))
    else:
        comments = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        scripts = list(_in_prose("\n".join(comments)))
    return list(dict.fromkeys(call for script in scripts for call in calls(script)))


def calls(script: str) -> list[Call]:
    """What bash would call, with what, without calling it."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "calls"
        record.touch()
        done = subprocess.run(
            [str(shutil.which("bash")), "-c", f"{_BASH}\n{script.replace('.venv/bin/', '')}"],
            cwd=folder,
            env={"CALLS": str(record), "HOME": folder, "PATH": "/nowhere", "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{script}\n{done.stderr}"
        fields = iter(record.read_text().split("\0")[:-1])
    found = [[next(fields) for _ in range(int(number))] for number in fields]
    return [
        Call(tuple(word for word in words if word != "…"), any("…" in word for word in words))
        for words in found
    ]


def _in_markdown(text: str) -> Iterator[str]:
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.info.strip() == "bash":
            yield token.content
        elif token.type == "code_block" or (token.type == "fence" and not token.info):
            yield from _lines(token.content)
        for child in token.children or []:
            if child.type == "code_inline" and _COMMAND.match(child.content):
                yield _spelled(child.content)
    for row in text.splitlines():  # the parser leaves tables, which plain Markdown has not, as text
        if row.startswith("|"):
            yield from map(_spelled, filter(_COMMAND.match, _SPAN.findall(row)))


def _in_prose(text: str) -> Iterator[str]:
    yield from _lines(text)
    yield from map(_spelled, filter(_COMMAND.match, _SPAN.findall(text)))


def _lines(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\n\s*", "", text)
    yield from map(_spelled, filter(_COMMAND.match, map(str.strip, joined.splitlines())))


def _spelled(command: str) -> str:
    """`launch/x.py key=…` in a sentence is short for `python launch/x.py … key=…`."""
    return f"python {command} …" if command.startswith("launch/") else command


def documents() -> list[Path]:
    """All that a user reads in the repository."""
    readmes = [ROOT / "README.md", ROOT / "benchmarks" / "README.md"]
    return [*readmes, *sorted((ROOT / "docs").rglob("*.md"))]


def sources() -> list[Path]:
    """Files whose docstrings and comments show commands; --help prints some of them."""
    globs = ("sae_dist/**/*.py", "benchmarks/**/*.py", "launch/slurm/*", "launch/accelerate/*")
    return sorted(path for glob in (*globs, "conf/**/*.yaml") for path in ROOT.glob(glob))
