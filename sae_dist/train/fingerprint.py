"""What makes a run the run it is: compared with its checkpoint's, and among its processes."""

import dataclasses
import socket
from collections.abc import Iterator
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist

import sae_dist
from sae_dist.common.errors import UserError
from sae_dist.parallel import World
from sae_dist.stream import ActivationSource
from sae_dist.train.config import LoopConfig, RungConfig
from sae_dist.train.ladder import sites_of

_OF_RUNG = ("name", "site", "target", "coder", "optim", "init_from")  # its mesh may change


def fingerprint_of(
    config: LoopConfig, rungs: list[RungConfig], source: ActivationSource, num_steps: int
) -> dict[str, Any]:
    """All that a run's result depends on, JSON-able: with it unchanged a checkpoint goes on.

    World, meshes, logging, checkpoints and reading ahead are not among it: they may change. Nor is
    the number of steps, unless a learning rate falls towards the end.

    Args:
        config: of the loop; its seed, batch, precision and order of the stream.
        rungs: their configurations.
        source: of activations; its scale is what they are normalised by.
        num_steps: of the whole run.
    """
    sites = sites_of(rungs)
    decays = any(rung.optim.decay_share for rung in rungs)
    return {
        "seed": config.seed,
        "batch_tokens": config.batch_tokens,
        "precision": config.precision.value,
        "stream": {"lanes": config.stream.lanes, "bucket_tokens": config.stream.bucket_tokens},
        "source": source.identity,
        "mean_square": {site: source.mean_square(site) for site in sites},
        **({"steps (optim.decay_share counts from the end)": num_steps} if decays else {}),
        "rungs": [
            {key: value for key, value in dataclasses.asdict(rung).items() if key in _OF_RUNG}
            for rung in rungs
        ],
    }


def changes(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two identities, one setting each: `coder.k was 4, is 5`.

    Rungs are compared by name; those of new names with those that are gone, one by one.
    """
    (rest_was, rungs_was), (rest_now, rungs_now) = _by_name(was), _by_name(now)
    same = [name for name in rungs_was if name in rungs_now]
    gone = [name for name in rungs_was if name not in rungs_now]
    new = [name for name in rungs_now if name not in rungs_was]
    found = list(_differences(rest_was, rest_now))
    if len(gone) != len(new):
        found.append(f"rungs were {', '.join(rungs_was)}, are {', '.join(rungs_now)}")
        gone = new = []
    for name_was, name_now in zip(same + gone, same + new, strict=True):
        unlike = list(_differences(rungs_was[name_was], rungs_now[name_now]))
        prefix = f"{name_now}: " if len(rungs_now) > 1 else ""
        found += [prefix + text for text in unlike]
        if name_was != name_now and not unlike:
            found.append(f"rung {name_was} is now called {name_now}")
    return found


def check_unchanged(was: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raise UserError with all that changed, if anything did, since the checkpoint at `path`."""
    if found := changes(was, now):
        raise UserError(
            f"{path} is of another run: {'; '.join(found)}; choose another run=NAME, or change it "
            "back to go on"
        )


def check_alike(world: World, config: Any, source: ActivationSource) -> None:
    """See that all processes were started with one configuration, store, code and torch.

    Called by all together, so that a difference is found on all of them.

    Raises:
        UserError: which process differs from rank 0, and in what.
    """
    facts = {
        "config": dataclasses.asdict(config),
        "store": source.identity,
        "processes": world.size,
        "sae_dist": _code(),
        "torch": version("torch"),
    }
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, (socket.gethostname(), facts))
    first_host, first = everyone[0]
    for rank, (host, theirs) in enumerate(everyone):
        unlike = "; ".join(_differences(first, theirs, "{key} {was} and {now}"))
        if unlike:
            raise UserError(
                f"rank 0 ({first_host}) and rank {rank} ({host}) were started differently, with "
                f"{unlike}; start all with the same command, store and version"
            )


def _by_name(identity: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """An identity without its rungs, and what makes these, by name."""
    rest = {key: value for key, value in identity.items() if key != "rungs"}
    rungs = identity.get("rungs", [])
    return rest, {rung["name"]: {k: v for k, v in rung.items() if k != "name"} for rung in rungs}


def _differences(was: Any, now: Any, form: str = "{key} was {was}, is {now}") -> Iterator[str]:
    flat_was, flat_now = dict(_flat(was)), dict(_flat(now))
    for key in sorted(flat_was.keys() | flat_now.keys()):
        if flat_was.get(key) != flat_now.get(key):
            yield form.format(key=key, was=flat_was.get(key), now=flat_now.get(key))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner


def _code() -> str:
    """A hash of the package's source."""
    package = Path(sae_dist.__file__).parent
    digest = blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()
