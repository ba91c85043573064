"""What stands behind `group=NAME` on a command's line, as Hydra is told of it.

A name is a file of `conf/`, or a class of a family (`coder=`, `optim=`). What has no recipe in
`conf/coder/` takes that of the nearest that has: a skip or cross-layer transcoder a transcoder's,
any form the autoencoder's, and a kind that of the kind it extends.
"""

from dataclasses import fields
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from sae_dist.coders import Form
from sae_dist.coders.kinds import KINDS
from sae_dist.common.registry import Registry
from sae_dist.config import COMMANDS, conf_folder, schema
from sae_dist.explain import JUDGES
from sae_dist.train.optimizers import OPTIMIZERS

FAMILIES: dict[str, Registry[Any]] = {"coder": KINDS, "optim": OPTIMIZERS, "judge": JUDGES}
"""The keys whose dataclass is of a class that is chosen by name."""
_GROUPS = {"coder": "kind", "optim": "optim", "judge": "judge"}  # where Hydra finds these classes
_ADDED = {"sweep", "experiment", "chat"}  # groups without a default
_HOLDS_A_TEMPLATE = {"text", "transfer"}  # where a file of `chat` may go
_EXPERIMENTS = ("plan", "harvest", "train")  # the commands that an experiment speaks to


@cache
def families(root: str) -> dict[str, Registry[Any]]:
    """Those of `FAMILIES` that a command chooses of."""
    return {key: FAMILIES[key] for key in FAMILIES if key in {f.name for f in fields(schema(root))}}


@cache
def choices(root: str) -> dict[str, list[str]]:
    """The groups of a command as they are written on its line, each with its names."""
    known = {declared.name for declared in fields(schema(root))}
    groups = {path.name: path.name for path in conf_folder().iterdir() if path.name in known}
    groups |= {key: key for key in families(root)}
    groups |= {"experiment": "experiment"} if root in _EXPERIMENTS else {}
    groups |= {f"chat@{key}": "chat" for key in _HOLDS_A_TEMPLATE & known}
    return {
        "+" * (folder in _ADDED) + group: sorted({*_stems(folder), *_classes(folder)})
        for group, folder in sorted(groups.items())
    }


def coder_choice(kind: str, form: Form) -> str:
    """What stands behind `coder=` for a kind and a form."""
    return kind if form is Form.autoencoder else f"{kind}_{form}"


@cache
def register() -> None:
    """Tell Hydra of the commands, against whose dataclasses every file of `conf/` is checked."""
    store = ConfigStore.instance()
    for name, command in COMMANDS.items():
        node = OmegaConf.structured(command.config)
        for key in FAMILIES.keys() & node.keys():
            node[key] = FAMILIES[key].base()  # the choice says which
        store.store(name=f"{name}_schema", node=node)
        chosen = [{group: file} for group, file in command.choices.items()]
        store.store(name=name, node={"defaults": [f"{name}_schema", *chosen, "_self_"]})


def register_class(key: str, choice: str) -> None:
    """Tell Hydra of the class of a family that is chosen, or of all where a file may name any."""
    found = _classes(key).get(choice)
    for name in [found] if found else FAMILIES[key].names():
        _register(key, name)


@cache
def _register(key: str, name: str) -> None:
    node = FAMILIES[key].named(name)
    ConfigStore.instance().store(group=_GROUPS[key], name=name, node=node)
    for form in Form if key == "coder" else ():
        _register_form(name, form)


def _register_form(kind: str, form: Form) -> None:
    """Let what has no file of its own take the nearest one, for itself and its optimizers."""
    store, choice = ConfigStore.instance(), coder_choice(kind, form)
    if choice not in _stems("coder"):
        recipe = _nearest("coder", "", kind, form) or {"/kind@coder": kind}
        node = {"defaults": [recipe, {"override /kind@coder": kind}], "coder": {"form": form.value}}
        store.store(group="coder", name=choice, node=node, package="_global_")
    for optimizer in OPTIMIZERS.names():
        name = f"{optimizer}_{choice}"
        recipe = _nearest("optim/recipe", f"{optimizer}_", kind, form)
        if recipe not in (None, name):
            store.store(group="optim/recipe", name=name, node={"defaults": [recipe]})


def _nearest(group: str, prefix: str, kind: str, form: Form) -> Any:
    """The file whose recipe a kind and a form take."""
    likewise = [] if form.reconstructs_input else [Form.transcoder]
    forms = dict.fromkeys([form, *likewise, Form.autoencoder])
    bases = [getattr(base, "kind", "") for base in KINDS.named(kind).__mro__]
    names = (prefix + coder_choice(base, one) for base in bases for one in forms)
    return next((name for name in names if name in _stems(group)), None)


def _classes(key: str) -> dict[str, str]:
    """What names a class of a family, without a file; for a coder with its form."""
    names = FAMILIES[key].names() if key in FAMILIES else []
    if key != "coder":
        return {name: name for name in names}
    return {coder_choice(name, form): name for name in names for form in Form}


@cache
def _stems(folder: str) -> list[str]:
    return [path.stem for path in (conf_folder() / folder).glob("*.yaml")]
