"""All commands under one name, from an installed package.

sae-dist harvest lm=pythia_70m text=fineweb tokens=100M store=PATH 'sites=[resid_post.3]'
torchrun --nproc-per-node 8 -m sae_dist train store=PATH run=NAME +sweep=width_ladder
accelerate launch --multi_gpu --num_processes 8 -m sae_dist harvest …
"""

import ast
import importlib
import inspect
import sys
from pathlib import Path

from sae_dist.apps.terminal import one_line, show
from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest

COMMANDS = (
    *("plan", "harvest", "verify", "train", "evaluate", "compare", "report", "dashboard"),
    *("export", "import_coder", "files", "selftest", "small_lm"),
)
_COMPLETION = "completion"
_CLOSING = (
    "`sae-dist COMMAND --help` lists its keys, defaults and choices. Where a text speaks of",
    "launch/COMMAND.py, that is a checkout's name for the same.",
)


def main() -> None:
    """Run the command that the first argument names, with the others as its own."""
    name, *arguments = sys.argv[1:] or ["--help"]
    with one_line():
        if name in ("--help", "-h", "help"):
            show(help_text())
        elif name in (*COMMANDS, _COMPLETION):
            sys.argv = [f"sae-dist {name}", *arguments]
            if name == _COMPLETION:
                importlib.import_module("sae_dist.apps.completion").main()
            else:
                importlib.import_module("sae_dist.apps.command").run(name)
        else:
            near = nearest(name.replace("-", "_"), COMMANDS)
            raise UserError(f"found command {name!r}; expected one of {', '.join(COMMANDS)}{near}")


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
