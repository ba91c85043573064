"""From a command line of overrides to a plain dataclass.

Hydra composes the files of `conf/` that a line chooses; what it says key by key is read by
`apps/overrides.py` as each key's declared type asks, and laid over them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sae_dist.apps import experiment
from sae_dist.apps.choices import FAMILIES, choices, families, register, register_class
from sae_dist.apps.keys import Kind, declared_in, find, keys, meant
from sae_dist.apps.overrides import Typed, read, shortened, structure_of
from sae_dist.apps.rungs import check_sweep, draft
from sae_dist.common.credentials import keys_with_credentials
from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest
from sae_dist.common.settings import Allowed, split_optional, validate
from sae_dist.config import (
    COMMANDS,
    PlanConfig,
    Source,
    SourceConfig,
    TrainConfig,
    conf_folder,
    place_key,
    schema,
)

Pair = tuple[str, Any]
Override = str | Pair
"""`key=value` as typed, or a key and the value itself."""
Kinds = dict[str, list[Kind]]
"""Of a family, by its key, the class that is chosen, first, and those that a sweep chooses."""
_SEARCHED = "hydra.searchpath"
LIVE = "live"  # `store=live` is short for `source=live`
_NOWHERE = "."
_GRID = "sweep.grids[{}]."
_OTHERWISE = {"lm": "lm.name", "text": "text.path"}  # where no file of a group fits


def compose_config(root: str, overrides: Sequence[Override], prefix: str = "") -> Any:
    """Compose `conf/<root>.yaml` with overrides; counts may read `100M` or `16K`.

    `+experiment=NAME` stands for what NAME says for this command (`apps/experiment.py`). What is
    told of another command (`harvest.…` of a training) is left out. `prefix` is what stood before
    each key where it was typed.

    Raises:
        UserError: an unknown key, choice or value, with the nearest one that exists.
    """
    register()
    try:
        given = experiment.for_command(root, _pairs(root, overrides))
        chosen, typed = _sorted(root, given, prefix)
        config = OmegaConf.merge(_of_files(str(conf_folder()), root, chosen))  # a copy
        for key, value in _values(root, typed, prefix, _kinds(root, config, typed)):
            OmegaConf.update(config, key, value)
        return config
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{prefix}{_first_line(error)}") from error
    except RecursionError as error:
        raise UserError("found lists or maps nested too deep; write them flatter") from error


@cache
def _of_files(folder: str, root: str, chosen: tuple[str, ...]) -> Any:
    """What the files of a folder like `conf/` say, of these choices; never changed."""
    with hydra.initialize_config_dir(folder, version_base="1.3"):
        config = hydra.compose(root, list(chosen))
    OmegaConf.set_struct(config, False)  # maps take any key; others were looked up
    return config


def compose(
    root: str,
    overrides: Sequence[Override] = (),
    prefix: str = "",
    unneeded: Mapping[str, Any] | None = None,
) -> Any:
    """The configuration of a command, whole, as a command line asks for it.

        config = sae_dist.compose("train", ["store=PATH", "run=NAME", "coder=topk"])

    What begins with another command's name is composed by that one, and a sweep becomes `ladder`.

    Args:
        root: the command's name.
        overrides: `key=value` as typed, or a key and its value.
        prefix: what stood before each key where it was typed.
        unneeded: values for keys that elsewhere must be given.

    Raises:
        UserError: an unknown key, choice or value, or something that must be given is not.
    """
    unneeded, given = unneeded or {}, _pairs(root, overrides)
    config = to_dataclass(compose_config(root, given, prefix), prefix, unneeded)
    if isinstance(config, TrainConfig):
        if {"expansion", "coder.num_latents"} <= dict(given).keys():
            raise UserError(
                f"found {prefix}expansion={config.expansion} beside {prefix}coder.num_latents="
                f"{config.coder.num_latents}; expected one of them; drop one"
            )
        _add_harvest(config, given, unneeded)
        _expand_sweep(config, given, prefix)
    if isinstance(config, PlanConfig):
        _add_parts(config, given)
    return config


def _add_harvest(config: TrainConfig, given: Sequence[Pair], unneeded: Mapping[str, Any]) -> None:
    """What `harvest.…` says of the language model beside a training."""
    if config.source is Source.live:
        told = [*experiment.for_part("harvest", given), ("store", LIVE)]  # nothing is stored
        config.harvest = compose("harvest", told, "harvest.", unneeded)
    elif any(key.startswith("harvest.") for key, _ in given):
        raise UserError(
            f"found harvest.… beside source={config.source}; expected source=live; drop one"
        )


def _add_parts(config: PlanConfig, given: Sequence[Pair]) -> None:
    """The harvest and the training of a plan; where both will be need not be said."""
    unneeded = {"run": "plan", "store": _NOWHERE, "text.path": _NOWHERE}
    told = experiment.for_part("train", given)
    if any(key.partition(".")[0] == "machine" for key, _ in told):
        raise UserError("found train.machine; expected machine=…, that of both; write that")
    if compose_config("train", told, "train.").source is Source.live:
        told += [(key, value) for key, value in given if key.startswith("harvest.")]
    config.train = compose("train", told, "train.", unneeded)
    config.train.machine = config.machine
    told = experiment.for_part("harvest", given)
    unneeded["store"] = config.train.store or _NOWHERE
    config.harvest = config.train.harvest or compose("harvest", told, "harvest.", unneeded)


def _expand_sweep(config: TrainConfig, given: Sequence[Pair], prefix: str) -> None:
    """Write the rungs of a training's sweep into its `ladder`.

    Each combination of a grid is composed anew from what the command line says and its own.
    """
    if config.sweep.grids:
        config.ladder = []
    given = experiment.for_command("train", given)
    given += [(key, getattr(config, key)) for key in ("run", "store")]  # a plan's need not be said
    composed: dict[str, TrainConfig] = {}
    for number, grid in enumerate(config.sweep.grids):
        place = _GRID.format(number)
        values = {key: one if isinstance(one, list) else [one] for key, one in grid.items()}
        if empty := [key for key, several in values.items() if not several]:
            raise UserError(f"{place}{empty[0]}=[]; expected one value or more; give some")
        for combination in itertools.product(*values.values()):
            own = dict(zip(grid, combination, strict=True))
            places = {k: own.pop(k) for k in ("site", "target") if isinstance(own.get(k), str)}
            if str(own) not in composed:  # where a rung reads and writes changes nothing else of it
                told = compose_config("train", [*given, *own.items()], place)
                composed[str(own)] = to_dataclass(told, prefix)
            config.ladder.append(draft(replace(composed[str(own)], **places)))
    check_sweep(config.sweep.grids)


def to_dataclass(config: Any, prefix: str = "", unneeded: Mapping[str, Any] | None = None) -> Any:
    """The plain dataclass of a composed configuration; see `compose`.

    Raises:
        UserError: keys that must be given are not (all are named), or a value is out of its range,
            refers to something that is not there, or holds a password.
    """
    try:
        for key, value in (unneeded or {}).items():
            if key in _missing(config):
                OmegaConf.update(config, key, value)
        _require_given(config, prefix)
        for secret in keys_with_credentials(OmegaConf.to_container(config, resolve=True)):
            raise UserError(
                f"{prefix}{secret}: found a URL with a user name or password; expected none, since "
                "what is configured is written to files; take them out (the Hub's token goes into "
                "HF_TOKEN)"
            )
        made: Any = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:  # an interpolation `${…}` that leads nowhere
        place = f"{prefix}{error.full_key}: " if error.full_key else ""
        raise UserError(f"{place}{_first_line(error)}") from error
    except RecursionError as error:
        raise UserError("found an interpolation that leads back to itself; end it") from error
    for key in FAMILIES.keys() & {declared.name for declared in fields(made)}:
        _require_class(key, getattr(made, key))
    validate(made, prefix)
    return made


def require_given(config: Any) -> None:
    """Refuse a configuration made in Python in which something is still missing; see `compose`."""
    try:
        _require_given(OmegaConf.structured(config), "")
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    if isinstance(config, SourceConfig) and config.source is Source.live and not config.harvest:
        raise UserError("found source=live without harvest; expected a HarvestConfig; give one")


def _require_given(config: Any, prefix: str) -> None:
    if missing := _missing(config):
        told = ", ".join(f"{prefix}{key}=…" for key in missing)
        raise UserError(f"{told} must be given; see --help")


def _missing(config: Any) -> list[str]:
    """Keys that must be given and are not; where a source is, is one of three."""
    root: Any = OmegaConf.get_type(config)
    missing = set(OmegaConf.missing_keys(config))
    if issubclass(root, SourceConfig) and (key := place_key(config.source)) != "harvest":
        is_said = OmegaConf.is_interpolation(config, key) or config[key] is not None
        missing |= set() if is_said else {key}
    declared = [key for key in declared_in(root) if key in missing]
    return [*declared, *sorted(missing - set(declared))]  # the latter of classes that were chosen


def _pairs(root: str, overrides: Sequence[Override]) -> list[Pair]:
    """Each override as a key and its value, `Typed` where it was typed."""
    found = []
    for number, override in enumerate(overrides):
        key, value = override if not isinstance(override, str) else (override, None)
        if isinstance(override, str):
            key, equals, typed = override.partition("=")
            if not equals or not key.strip("+") or key.startswith(("-", "~")):
                after = [one for one in overrides[number + 1 : number + 2] if isinstance(one, str)]
                raise UserError(_not_an_override(root, override, after))
            value = Typed(typed)
        is_live = (root, key, value) == ("train", "store", LIVE) and isinstance(value, Typed)
        found.append(("source" if is_live else key.lstrip("+"), value))
    return found


def _not_an_override(root: str, typed: str, following: list[str]) -> str:
    """What to write instead of an argument that is no `key=value`."""
    key, _, value = typed.lstrip("-~+").partition("=")
    key = key.replace("-", "_")
    if key in ("help", "h", "cfg", "config"):
        near = "; did you mean --cfg?" if key.startswith("c") else "; did you mean --help?"
    elif key in keys(root) or key in choices(root):
        if not value and typed.startswith("-") and following and "=" not in following[0]:
            value = following[0]
        near = f"; did you mean {key}={shortened(value or 'VALUE')}?"
    else:
        near = meant(root, key, "")
    return f"found {shortened(typed)}; expected key=value, as --help lists them{near}"


def _sorted(root: str, given: Sequence[Pair], prefix: str) -> tuple[tuple[str, ...], list[Pair]]:
    """Choices of files, for Hydra, and what was said key by key."""
    folders = _folders_of_one_s_own(given)
    groups = {written.lstrip("+"): (written, names) for written, names in choices(root).items()}
    chosen: dict[str, str] = {}
    typed: list[Pair] = []
    for key, value in _leaves(root, given):
        if key in groups:
            chosen[key] = _choice(key, value, [*groups[key][1], *_own(key, folders)], prefix)
        elif key != _SEARCHED:
            typed.append((key, value))
    for key, choice in {**COMMANDS[root].choices, **chosen}.items():
        if key in FAMILIES:
            register_class(key, "" if folders else choice or "")
    told = [f"{groups[key][0]}={name}" for key, name in chosen.items()]
    quoted = [QuotedString(folder, Quote.single).with_quotes() for folder in folders]
    told += [f"{_SEARCHED}=[{','.join(quoted)}]"] if folders else []
    return tuple(told), typed


def _values(root: str, typed: Sequence[Pair], prefix: str, kinds: Kinds) -> Iterator[Pair]:
    """What was said key by key, each value read as its key's.

    A key that only classes have which a sweep chooses is left to their rungs.
    """
    for key, value in typed:
        first, *others = kinds.get(key.partition(".")[0], [None])
        having = [kind for kind in (first, *others) if kind and key in keys(root, kind)]
        kind, allowed = find(root, key, prefix, *(having[:1] or filter(None, [first])))
        if root == "train":
            _require_single(f"{prefix}{key}", key, value, kind)
        read_value = read(f"{prefix}{key}", value, kind, allowed)
        if not having or having[0] is first:
            yield key, read_value


def _kinds(root: str, config: Any, typed: Sequence[Pair]) -> Kinds:
    """Of each family the class that files chose, and those that a sweep's grids choose."""
    found = {key: [OmegaConf.get_type(config, key)] for key in families(root)}
    if root != "train":
        return found
    swept = [structure_of(key, value) for key, value in typed if key == "sweep.grids"]
    grids = swept[-1] if swept else OmegaConf.to_container(config.sweep.grids)
    for number, grid in enumerate(grids if isinstance(grids, list) else []):
        for key in found if isinstance(grid, dict) else ():
            found[key] += _kinds_of(key, grid, _GRID.format(number))
    return found


def _kinds_of(key: str, grid: dict[str, Any], place: str) -> list[Kind]:
    """The classes of a family that a grid chooses."""
    names = grid.get(key, [])
    names = names if isinstance(names, list) else [names]
    chosen = [_sorted("train", [(key, name)], place)[0] for name in map(str, names)]
    files = (_of_files(str(conf_folder()), "train", one) for one in chosen)
    return [OmegaConf.get_type(one, key) for one in files]


def _folders_of_one_s_own(given: Sequence[Pair]) -> list[str]:
    """Where Hydra looks for files of groups beside `conf/`."""
    asked = [value for key, value in given if key == _SEARCHED]
    folders = read(_SEARCHED, asked[-1], list[str], Allowed()) if asked else []
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{_SEARCHED}={folder}; expected a folder like conf/; correct it")
    return [str(Path(folder).absolute()) for folder in folders]


def _own(group: str, folders: Sequence[str]) -> list[str]:
    """The names of a group's files in such folders."""
    name = group.partition("@")[0]
    return sorted(path.stem for folder in folders for path in (Path(folder) / name).glob("*.yaml"))


def _leaves(root: str, given: Sequence[Pair]) -> Iterator[Pair]:
    """The same, with a map for a group of keys taken apart."""
    for key, value in given:
        kind, _ = declared_in(schema(root)).get(key, (None, None))
        found = structure_of(key, value) if str(value)[:1] == "{" else value
        if is_dataclass(kind) and isinstance(found, dict):
            yield from _leaves(root, [(f"{key}.{name}", one) for name, one in found.items()])
        else:
            yield key, value


def _choice(key: str, value: Any, names: list[str], prefix: str) -> str:
    """The name of a file of a group."""
    if value in names:
        return str(value)
    shown = "null" if value is None else str(value)
    several = _ladder(key) if _is_several(value) else ""
    other = f", or {prefix}{_OTHERWISE[key]}=NAME" if key in _OTHERWISE else ""
    near = several or nearest(shown, names)
    raise UserError(f"{prefix}{key}={shown:.100}; expected one of {', '.join(names)}{other}{near}")


def _require_single(full: str, key: str, value: Any, kind: Any) -> None:
    """Several values where a training takes one number are meant for a sweep."""
    if split_optional(kind)[0] in (int, float, bool) and _is_several(value):
        raise UserError(f"{full}={value!s:.100}; expected one value{_ladder(key)}")


def _is_several(value: Any) -> bool:
    if isinstance(value, Typed):
        return value.startswith("[") or "," in value
    return isinstance(value, list)


def _ladder(key: str) -> str:
    return f"; a ladder of several is 'sweep.grids=[{{{key}:[A,B]}}]'"


def _require_class(key: str, config: Any) -> None:
    name = FAMILIES[key].key
    told = getattr(config, name)
    if not told or told != getattr(type(config), name):
        raise UserError(
            f"found {key} whose {name} is {told or 'not said'}; expected a file for {key}=… that "
            "chooses one among its `defaults:`, as docs/guides/your_own_kind.md has it; add that"
        )


def _first_line(error: Exception) -> str:
    """What an error says first, and what follows where that ends with a colon."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first
