"""A command: a function of its configuration, called from Python or by a command line."""

import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from importlib import import_module
from typing import Any, TypeVar

from omegaconf import OmegaConf

from sae_dist.apps import checks, cli
from sae_dist.apps.help import help_text
from sae_dist.apps.terminal import ended_in_one_line, show
from sae_dist.common.credentials import without_credentials
from sae_dist.common.disk import explain_disk_errors
from sae_dist.common.settings import validate

_Function = TypeVar("_Function", bound=Callable[[Any], Any])


def command(function: _Function) -> _Function:
    """Let a function, named as its command, see its configuration only when it can be done.

    A mistake of the user's, or a disk that cannot be written, is raised as `UserError`.
    """

    @wraps(function)
    def checked(config: Any) -> Any:
        cli.require_given(config)
        validate(config)
        with explain_disk_errors():
            checks.check(config)
            return function(config)

    return checked  # type: ignore[return-value]


def run(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command with the configuration that its arguments ask for, by default `sys.argv`'s.

    `--help` prints what can be set, `--cfg` the composed configuration. A mistake ends in one line
    on standard error and status 2, on every rank. torch and its like are imported only once the
    command is known to have something to do.

    Args:
        name: that of its row in `sae_dist.config.COMMANDS`, of its module in `sae_dist/apps/`, and
            of the function there.
    """
    given = sys.argv[1:] if arguments is None else arguments
    overrides = [argument for argument in given if argument != "--cfg"]
    with ended_in_one_line():
        if "--help" in given or "-h" in given:
            show(help_text(name, given))
        elif len(overrides) < len(given):
            composed = cli.compose_config(name, overrides)
            show(without_credentials(OmegaConf.to_yaml(composed)).rstrip())
        else:
            config = cli.compose(name, overrides)
            with explain_disk_errors():
                checks.check(config)
            getattr(import_module(f"sae_dist.apps.{name}"), name)(config)


def entry(name: str) -> Callable[[], None]:
    """The `main` of a command's module."""
    return partial(run, name)
