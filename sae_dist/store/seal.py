"""The seal of a store: the manifest is written, and what it replaces goes."""

from collections.abc import Iterable
from contextlib import suppress

from sae_dist.common.errors import UserError
from sae_dist.common.files import to_json
from sae_dist.common.log import warn
from sae_dist.store.contents import Contents
from sae_dist.store.files import Files
from sae_dist.store.records import (
    COPIES,
    MANIFEST_FILE,
    SETTINGS_FILE,
    SUMS_FILE,
    TOKENS,
    UNIT_COMMITS,
    Manifest,
    dump,
)


def seal(files: Files, contents: Contents) -> Manifest:
    """Write the manifest of a store whose units are all committed; then remove the commits."""
    _publish_all(files, contents)
    for spec in contents.specs.values():
        files.write(spec.metadata_file, to_json(spec.metadata(contents.layout)))
        files.sync(spec.path)
    if contents.manifest.settings.held_out > 0 and not contents.is_held_out.any():
        warn(f"{files.path()} has one unit only: nothing is held out for evaluation")
    write_manifest(files, contents)
    clear_up(files, contents.specs)
    return contents.manifest


def write_manifest(files: Files, contents: Contents) -> None:
    """Write the seal, the copies first: a reader trusts what is under the first name."""
    files.make_folders([COPIES])
    for folder in (f"{COPIES}/", ""):
        files.write(folder + SUMS_FILE, contents.all_sums())
        files.write(folder + MANIFEST_FILE, dump(contents.manifest))


def clear_up(files: Files, arrays: Iterable[str]) -> None:
    """Remove what a sealed store does not need: its commits, and what killed writers left.

    What another process is writing goes, too: it finds the store sealed then.
    """
    for folder in (UNIT_COMMITS, TOKENS):
        for name in files.list(folder):
            files.remove(f"{folder}/{name}")
    for folder in (UNIT_COMMITS, TOKENS, "commits"):
        with suppress(OSError):
            files.remove(folder)
    files.remove(SETTINGS_FILE)
    left = [
        f"{folder}/{name}" if folder else name
        for folder in ("", COPIES, *arrays)
        for name in files.list(folder)
        if is_leftover(name)
    ]
    for name in left:
        files.remove(name)
    if left:
        told = files.path(left[0])
        warn(f"{len(left)} leftover files of killed writers removed (first: {told})")


def _publish_all(files: Files, contents: Contents) -> None:
    """Give files their names whose writers were killed before it."""
    there = {path: set(files.list(path)) for path in contents.specs}
    for spec, unit in contents.files():
        folder, _, name = spec.file(unit).rpartition("/")
        if name not in there[folder]:
            source = spec.unpublished(unit, contents.tokens[unit])
            try:
                files.rename(source, spec.file(unit))
            except FileNotFoundError as error:
                if not files.exists(spec.file(unit)):  # else another process seals, too
                    raise UserError(
                        f"found {files.path(spec.file(unit))} missing; expected what was "
                        "committed; let sae-dist verify mend it with repair=true"
                    ) from error


def is_leftover(name: str) -> bool:
    """Whether a file is what a killed writer left."""
    return (name.startswith(".") and name.endswith(".tmp")) or name.endswith(".partial")
