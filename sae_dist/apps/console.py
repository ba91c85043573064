"""All commands under one name, from an installed package.

sae-dist harvest lm=pythia_70m text=fineweb tokens=100M store=PATH 'sites=[resid_post.3]'
torchrun --nproc-per-node 8 -m sae_dist train store=PATH run=NAME +sweep=width_ladder
accelerate launch --multi_gpu --num_processes 8 -m sae_dist harvest …
"""

import inspect
import sys

from sae_dist.apps import completion
from sae_dist.apps.command import run
from sae_dist.apps.help import description
from sae_dist.apps.terminal import ended_in_one_line, show
from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest
from sae_dist.config import COMMANDS

_COMPLETION = "completion"
_CLOSING = "`sae-dist COMMAND --help` lists its keys, defaults and choices."


def main() -> None:
    """Run the command that the first argument names, with the others as its own."""
    name, *arguments = sys.argv[1:] or ["--help"]
    with ended_in_one_line():
        if name in ("--help", "-h", "help"):
            show(help_text())
        elif name == _COMPLETION:
            completion.run(arguments)
        elif name in COMMANDS:
            run(name, arguments)
        else:
            near = nearest(name.replace("-", "_"), COMMANDS)
            raise UserError(f"found command {name!r}; expected one of {', '.join(COMMANDS)}{near}")


def help_text() -> str:
    """The commands in the order of use, each with what its module says first."""
    names = (*COMMANDS, _COMPLETION)
    width = max(map(len, names)) + 2
    commands = [f"  {name:{width}}{description(name).splitlines()[0]}" for name in names]
    return "\n".join([inspect.cleandoc(__doc__), "", "Commands:", *commands, "", _CLOSING])
