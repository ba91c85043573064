"""From settings and commits to the manifest."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from operator import add

import msgspec

from sae_dist.common.errors import UserError
from sae_dist.common.files import to_json
from sae_dist.common.log import warn
from sae_dist.store.contents import Contents
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.files import Files
from sae_dist.store.layout import is_held_out
from sae_dist.store.records import (
    COPIES,
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    TOKENS,
    UNIT_COMMITS,
    Manifest,
    Settings,
    TokensEnd,
    UnitCommit,
    commit_file,
    dump,
    load,
)
from sae_dist.store.statistics import Statistics


def load_settings(files: Files) -> tuple[str, Settings]:
    """(file, settings) of a started or sealed store. Raises FileNotFoundError if there is none."""
    try:
        return SETTINGS_FILE, load(files, SETTINGS_FILE, Settings)
    except FileNotFoundError:  # sealing writes the manifest before it removes the settings
        return MANIFEST_FILE, load(files, MANIFEST_FILE, Manifest).settings


def load_commit(files: Files, unit: int) -> UnitCommit:
    """The commit of one unit. Raises FaultError when it is damaged, or another unit's."""
    commit, name = load(files, commit_file(unit), UnitCommit), commit_file(unit)
    if commit.unit != unit:
        found = f"to be of unit {commit.unit}"
        raise FaultError(Fault(path=files.path(name), found=found, expected="its own", unit=unit))
    return commit


def assemble(
    settings: Settings, end: TokensEnd, commits: Mapping[int, UnitCommit]
) -> tuple[Manifest, bytes]:
    """The manifest of these units and the sums of their chunks; statistics are added in order."""
    layout = settings.layout(end.num_sequences)
    in_order = [commits[unit] for unit in sorted(commits)]
    training = [c for c in in_order if not is_held_out(c.unit, settings.held_out)]
    manifest = Manifest(
        settings=settings,
        num_sequences=end.num_sequences,
        rows=[commits[u].rows if u in commits else 0 for u in range(layout.num_units)],
        statistics={
            site: reduce(add, (c.statistics[site] for c in training), Statistics.zero(width))
            for site, width in settings.widths.items()
        },
        dropped={
            site: num
            for site in settings.widths
            if (num := sum(commit.dropped.get(site, 0) for commit in in_order))
        },
        num_dropped=sum(commit.num_dropped for commit in in_order),
        fingerprint=end.fingerprint,
        sums="",
    )
    files = Contents(manifest, commits).files()
    sums = b"".join(commits[unit].sums[spec.path] for spec, unit in files)
    return with_sums(manifest, sums), sums


def with_sums(manifest: Manifest, sums: bytes) -> Manifest:
    """The manifest of other sums."""
    return msgspec.structs.replace(manifest, sums=hashlib.sha256(sums).hexdigest())


def seal(files: Files, settings: Settings, end: TokensEnd) -> Manifest:
    """Write the manifest of a store whose units are all committed; then remove the commits."""
    num_units = settings.layout(end.num_sequences).num_units
    commits = {unit: load_commit(files, unit) for unit in range(num_units)}
    manifest, sums = assemble(settings, end, commits)
    contents = Contents(manifest)
    _publish_all(files, contents, commits)
    for spec in contents.specs.values():
        files.write(spec.metadata_file, to_json(spec.metadata(contents.layout)))
        files.sync(spec.path)
    if settings.held_out > 0 and not contents.is_held_out.any():
        warn(f"{files.path()} has one unit only: nothing is held out for evaluation")
    write_manifest(files, manifest, sums)
    clear_commits(files)
    return manifest


def write_manifest(files: Files, manifest: Manifest, sums: bytes) -> None:
    """Write the seal, the copies first: a reader trusts what is under the first name."""
    data = dump(manifest)
    files.make_folders([COPIES])
    for name, content in ((SUMS_FILE, sums), (MANIFEST_FILE, data)):
        files.write(f"{COPIES}/{name}", content)
    for name, content in ((SUMS_FILE, sums), (MANIFEST_FILE, data)):
        files.write(name, content)


def clear_commits(files: Files) -> None:
    """Remove what a sealed store no longer needs."""
    for folder in (UNIT_COMMITS, TOKENS):
        for name in files.list(folder):
            files.remove(f"{folder}/{name}")
    for folder in (UNIT_COMMITS, TOKENS, "commits"):
        with suppress(OSError):
            files.remove(folder)
    files.remove(SETTINGS_FILE)


def _publish_all(files: Files, contents: Contents, commits: Mapping[int, UnitCommit]) -> None:
    """Give files their names that were killed before it, remove what others left, and tell."""
    there = {path: set(files.list(path)) for path in contents.specs}
    for spec, unit in contents.files():
        folder, _, name = spec.file(unit).rpartition("/")
        if name not in there[folder]:
            source = spec.unpublished(unit, commits[unit].token)
            try:
                files.rename(source, spec.file(unit))
            except FileNotFoundError as error:
                if not files.exists(spec.file(unit)):  # else another process seals, too
                    raise UserError(
                        f"found {files.path(spec.file(unit))} missing; expected what was "
                        "committed; let sae-dist verify mend it with repair=true"
                    ) from error
            there[folder].discard(source.rpartition("/")[2])
    left = [
        f"{path}/{name}"
        for path in there
        for name in sorted(there[path])
        if is_leftover(name) and "zarr.json" not in name  # which another may be writing now
    ]
    for name in left:
        files.remove(name)
    if left:
        told = files.path(left[0])
        warn(f"{len(left)} leftover files of killed writers removed (first: {told})")


def is_leftover(name: str) -> bool:
    """Whether a file is what a killed writer left."""
    return (name.startswith(".") and name.endswith(".tmp")) or name.endswith(".partial")
