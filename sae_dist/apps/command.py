"""Run a command: compose its configuration, look whether it can be done, and only then load it."""

import sys
from importlib import import_module

from omegaconf import OmegaConf

from sae_dist.apps import checks, cli
from sae_dist.apps.help import help_text
from sae_dist.apps.terminal import one_line, show
from sae_dist.common.credentials import without_credentials
from sae_dist.common.disk import explain_disk_errors


def run(name: str) -> None:
    """Run a command with the configuration that `sys.argv` asks for, and exit.

    `--help` prints what can be set, `--cfg` the composed configuration. A mistake of the user's,
    or a disk that cannot be written, ends in one line on standard error and status 2, on every
    rank. torch and its like are imported only once the command is known to have something to do.

    Args:
        name: that of its primary file in `conf/`, of its module in `sae_dist/apps/`, and there of
            the function `NAME_command`, which takes the composed dataclass.
    """
    arguments = sys.argv[1:]
    with one_line():
        if "--help" in arguments or "-h" in arguments:
            show(help_text(name, arguments))
            return
        shows_config = "--cfg" in arguments
        composed = cli.compose_config(name, [a for a in arguments if a != "--cfg"])
        if shows_config:
            show(without_credentials(OmegaConf.to_yaml(composed)).rstrip())
            return
        config = cli.to_dataclass(composed)
        with explain_disk_errors():
            checks.check(name, config)
            module = import_module(f"sae_dist.apps.{name}")
            getattr(module, f"{name}_command")(config)
