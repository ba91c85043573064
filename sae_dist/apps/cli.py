"""From a command line of Hydra overrides to a plain dataclass, and to what `--help` says."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import cleandoc
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sae_dist.apps import console, experiment
from sae_dist.common.credentials import keys_with_credentials
from sae_dist.common.errors import UserError
from sae_dist.config import conf_folder, register, schema

_COUNT = re.compile(r"^(?P<key>[\w.]*tokens)=(?P<number>\d+(\.\d+)?)(?P<unit>[KMBT])$")
_PREFIX = {"sweep": "+", "experiment": "+"}  # groups without a default are added
_HOLDS_A_TEMPLATE = {"text", "transfer"}  # where a file of `chat` may go
_EXPERIMENTS = ("plan", "harvest", "train")  # the commands that an experiment speaks to
_HYDRA_ASIDES = (
    *("To append", "Config search path", "See https"),
    *("provider", "reference_type", "full_key", "object_type"),
)
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def compose_config(root: str, overrides: list[str]) -> Any:
    """Compose `conf/<root>.yaml` with overrides; counts of tokens may read `100M` or `8B`.

    `+experiment=NAME` stands for what NAME says for this command (`apps/experiment.py`).

    Raises:
        UserError: an unknown key, choice or value, with the nearest one that exists.
    """
    register()
    overrides = experiment.for_command(root, overrides)
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return compose(root, [_expand_count(override) for override in overrides])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(root, error)) from error


def compose_part(part: str, overrides: list[str]) -> Any:
    """The configuration of another command, of what stands behind `part.` on this one's line.

    Raises:
        UserError: as that command would say it, behind its name.
    """
    try:
        composed = compose_config(part, overrides)
        to_dataclass(composed)
    except UserError as error:
        raise UserError(f"{part}.…: {error}") from error
    return composed


def to_dataclass(config: Any) -> Any:
    """The plain dataclass of a composed configuration.

    Raises:
        UserError: a key that must be given is not, one was added that nothing reads, or a value
            refers to something that is not there, or holds a password.
    """
    try:
        for secret in keys_with_credentials(OmegaConf.to_container(config, resolve=True)):
            raise UserError(
                f"{secret}: found a URL with a user name or password; expected none, since what is "
                "configured is written to files; take them out (the Hub's token goes into HF_TOKEN)"
            )
        return OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key}=… must be given; see --help") from error
    except AttributeError as error:  # `+key=value` adds keys that the dataclass does not have
        known = OmegaConf.to_container(OmegaConf.structured(OmegaConf.get_type(config)))
        near = _did_you_mean(str(error).split("'")[-2], _keys(known))
        raise UserError(f"unknown key: {error}{near}") from error
    except OmegaConfBaseException as error:  # an interpolation `${…}` that leads nowhere
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from error


def help_text(root: str) -> str:
    """What `--help` prints: purpose, the choices of each group, and every key with its default."""
    config = compose_config(root, [])
    choices = [f"  {group}={'|'.join(names)}" for group, names in _choices(root, config).items()]
    lines = [console.description(root), "", "Choices:", *choices, ""]
    lines += ["Keys and defaults (key=value):", _indent(OmegaConf.to_yaml(config))]
    return "\n".join([*lines, "What they mean:", *_meanings(schema(root))])


def _meanings(kind: Any, place: str = "") -> Iterator[str]:
    """What a configuration's dataclasses say of their keys, group by group."""
    bases = [base for base in kind.__mro__ if "__dataclass_fields__" in vars(base)]
    told = {base.__name__: cleandoc(base.__doc__ or "") for base in bases}
    written = [text for name, text in told.items() if not text.startswith(f"{name}(")]
    if written:
        yield "\n".join([*([f"  {place}.…:"] if place else []), _indent("\n\n".join(written)), ""])
    for key in fields(kind):
        if isinstance(key.type, type) and is_dataclass(key.type):
            yield from _meanings(key.type, f"{place}.{key.name}" if place else key.name)


def words(root: str) -> list[str]:
    """What may stand on a command's line: `group=choice`, and `key=` for every single value."""
    config = OmegaConf.structured(schema(root))  # composed it has the same keys, and takes longer
    groups = _choices(root, config)
    chosen = [f"{group}={name}" for group, names in groups.items() for name in names]
    keys = _keys(OmegaConf.to_container(config))
    values = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    return [*chosen, *(f"{key}=" for key in values)]


def _choices(root: str, config: Any) -> dict[str, list[str]]:
    """The groups of a command as they are written on its line, each with its files' names."""
    known = {*config, "experiment"} if root in _EXPERIMENTS else set(config)
    folders = sorted(path for path in conf_folder().iterdir() if path.name in known)
    written = {_PREFIX.get(folder.name, "") + folder.name: folder for folder in folders}
    written |= {f"+chat@{key}": conf_folder() / "chat" for key in _HOLDS_A_TEMPLATE & set(config)}
    return {
        group: sorted(file.stem for file in folder.glob("*.yaml"))
        for group, folder in written.items()
        if folder.is_dir()
    }


def _expand_count(override: str) -> str:
    match = _COUNT.match(override)
    if not match:
        return override
    return f"{match['key']}={round(float(match['number']) * _UNITS[match['unit']])}"


def _explain(root: str, error: Exception) -> str:
    """Hydra's message as one line, with the nearest keys where one is unknown."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    lines = [line.strip(" .\t") for cause in causes[:2] for line in str(cause).splitlines()]
    told = [line for line in lines if line and not line.startswith(_HYDRA_ASIDES)]
    message = "; ".join(dict.fromkeys(told)).replace(":; ", ": ")
    unknown = re.search(r"Could not override '([\w.]+)'|Key '(\w+)'", message)
    if unknown:
        keys = _keys(OmegaConf.to_container(OmegaConf.structured(schema(root))))
        message += _did_you_mean(unknown[1] or unknown[2], keys)
    return message


def _did_you_mean(unknown: str, keys: list[str]) -> str:
    """The end of a line that names the nearest keys; nothing where none is near."""
    last = unknown.rpartition(".")[2]
    near = [key for key in keys if key.rpartition(".")[2] == last and key != unknown]
    near += difflib.get_close_matches(unknown, keys, n=2, cutoff=0.7)
    lasts = [key.rpartition(".")[2] for key in keys]
    close = difflib.get_close_matches(last, lasts, n=1, cutoff=0.8)
    near += [key for key, end in zip(keys, lasts, strict=True) if end in close]
    return f"; did you mean {' or '.join(list(dict.fromkeys(near))[:3])}?" if near else ""


def _keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
