"""All commands under one name, from an installed package.

sae-dist harvest lm=pythia_70m text=fineweb tokens=100M store=PATH 'sites=[resid_post.3]'
torchrun --nproc-per-node 8 -m sae_dist train store=PATH run=NAME +sweep=width_ladder
accelerate launch --multi_gpu --num_processes 8 -m sae_dist harvest …
"""

import ast
import difflib
import importlib
import inspect
import sys
from pathlib import Path

from sae_dist.common.log import write_error

COMMANDS = (
    *("plan", "harvest", "verify", "train", "evaluate", "compare", "report", "dashboard"),
    *("export", "import_coder", "files", "selftest", "small_lm", "chat_corpus", "reproduction"),
)
_COMPLETION = "completion"
_CLOSING = (
    "`sae-dist COMMAND --help` lists its keys, defaults and choices. Where a text speaks of",
    "launch/COMMAND.py, that is a checkout's name for the same.",
)


def main() -> None:
    """Run the command that the first argument names, with the others as its own."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(help_text())
    elif name in (*COMMANDS, _COMPLETION):
        sys.argv = [f"sae-dist {name}", *arguments]
        if name == _COMPLETION:
            importlib.import_module("sae_dist.apps.completion").main()
        else:
            importlib.import_module("sae_dist.apps.command").run(name)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        write_error(f"found command {name!r}; expected one of {', '.join(COMMANDS)}{meant}")
        sys.exit(2)


def help_text() -> str:
    """The commands in the order of use, each with what its module says first."""
    lines = [*inspect.cleandoc(__doc__).splitlines(), "", "Commands:"]
    width = max(map(len, (*COMMANDS, _COMPLETION))) + 2
    lines += [f"  {name:{width}}{summary(name)}" for name in (*COMMANDS, _COMPLETION)]
    return "\n".join([*lines, "", *_CLOSING])


def summary(name: str) -> str:
    """The first line of a command's description."""
    return description(name).splitlines()[0]


def description(name: str) -> str:
    """What a command's module says of it, read without importing what it needs."""
    source = Path(__file__).with_name(f"{name}.py").read_text()
    return ast.get_docstring(ast.parse(source)) or ""
