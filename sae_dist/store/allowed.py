"""What a manifest and an array's metadata may say: nothing else is opened, allocated or computed.

The lists are closed. Metadata is compared with the only values that the manifest allows, before
zarr or the reader sees it, so that no shape, chunk size or codec of another hand takes effect.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sae_dist.common.files import to_json
from sae_dist.store.arrays import ArraySpec, array_specs, metadata
from sae_dist.store.fault import Fault
from sae_dist.store.layout import Layout
from sae_dist.store.links import odd_file
from sae_dist.store.schema import Manifest, Settings, TokensCommit
from sae_dist.store.seal import metadata_digests

MAX_METADATA_BYTES = 2**20
MAX_SHARD_BYTES = 2**30
_SITE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


def site_problems(widths: dict[str, int]) -> Iterator[str]:
    """Sites whose name cannot be a folder's, or whose width is not positive."""
    if not widths:
        yield "no site; expected at least one"
    for site, width in widths.items():
        if not _SITE_NAME.fullmatch(site):
            yield (
                f"site {site[:130]!r}; expected letters, digits, '_', '-' and inner dots, at most "
                "128 of them"
            )
        if type(width) is not int or width < 1:
            yield f"width {width!r} at site {site!r}; expected a positive number"


def grid_problems(settings: Settings, tokens: TokensCommit, max_shard_bytes: int) -> Iterator[str]:
    """What an unsealed store cannot be. Each line is "…; expected …"."""
    problems = list(_grid(settings, tokens.num_sequences, max_shard_bytes))
    if not problems and len(tokens.files) != 2 * settings.layout(tokens.num_sequences).num_shards:
        problems = [f"{len(tokens.files)} files of tokens; expected two a unit"]
    yield from problems


def _grid(settings: Settings, num_sequences: int, max_shard_bytes: int) -> Iterator[str]:
    """Sites and sizes that no store can have."""
    layout = settings.layout(num_sequences)
    numbers = [getattr(layout, name) for name in Layout.__dataclass_fields__]
    if any(type(number) is not int or number < 1 for number in numbers):
        yield f"{layout}; expected positive whole numbers"
        return
    if (
        layout.shard_sequences % layout.chunk_sequences
        or layout.sequence_length % layout.chunk_positions
    ):
        yield f"{layout}; expected shards of whole chunks"
    yield from (problems := list(site_problems(settings.widths)))
    if problems:
        return
    for spec in array_specs(settings.widths, layout.sequence_length, settings.dtype).values():
        if (found := layout.shard_sequences * spec.sequence_bytes) > max_shard_bytes:
            yield (
                f"{found} bytes a shard in {spec.path}; expected at most {max_shard_bytes} (raise "
                "max_shard_gib if larger ones are meant)"
            )


def manifest_problems(manifest: Manifest, is_sealed: bool, max_shard_bytes: int) -> Iterator[str]:
    """What in a manifest contradicts itself, or would lead outside the store or out of memory.

    Each line is "…; expected …". A manifest that is sealed has every unit.
    """
    num_sequences = manifest.layout.num_sequences
    problems = list(_grid(manifest.settings, num_sequences, max_shard_bytes))
    for site, record in manifest.sites.items():
        if len(record.statistics.sum) != record.width:
            count = len(record.statistics.sum)
            problems.append(f"statistics of {count} values at {site}; expected {record.width}")
    problems = problems or list(_unit_problems(manifest, is_sealed))
    if not problems and manifest.metadata != metadata_digests(manifest.settings, num_sequences):
        problems.append("other metadata; expected that of its sites and sizes")
    yield from problems


def _unit_problems(manifest: Manifest, is_sealed: bool) -> Iterator[str]:
    layout = manifest.layout
    specs = array_specs(manifest.widths, layout.sequence_length, manifest.dtype).values()
    units, num_shards = [shard.unit for shard in manifest.shards], layout.num_shards
    is_inside = _are_units([*units, *manifest.held_out], num_shards)
    if not is_inside or units != sorted(set(units)) or (is_sealed and len(units) != num_shards):
        yield f"units {units!s:.60}; expected 0 to {num_shards - 1} once each, in order"
        return
    for shard in manifest.shards:
        if set(shard.files) != {spec.file(shard.unit) for spec in specs}:
            yield f"files {sorted(shard.files)} in unit {shard.unit}; expected one an array"
        counts, num_chunks = shard.trainable_per_chunk, len(layout.chunks_of(shard.unit))
        if len(counts) != num_chunks:
            yield f"{len(counts)} chunk counts in unit {shard.unit}; expected {num_chunks}"
        if any(len(record.chunk_crc32c) != 8 * num_chunks for record in shard.files.values()):
            yield f"chunk checksums in unit {shard.unit}; expected {num_chunks} a file"
        if shard.dropped is not None:
            num_tokens = len(layout.sequences_of(shard.unit)) * layout.sequence_length
            yield from shard.dropped.problems(shard.unit, num_tokens)


def _are_units(units: list[int], num_shards: int) -> bool:
    return all(type(unit) is int and 0 <= unit < num_shards for unit in units)


def metadata_fault(root: Path, spec: ArraySpec, layout: Layout) -> Fault | None:
    """Size first, then JSON, then each entry against the only values that this format allows."""
    path = root / spec.metadata_file
    try:
        if (fault := odd_file(path)) is not None:
            return fault
        with open(path, "rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    except OSError as error:
        return Fault(path=path, found=_unread(error), expected="zarr metadata")
    if len(data) > MAX_METADATA_BYTES:
        longer = f"longer than {MAX_METADATA_BYTES} bytes"
        return Fault(path=path, found=longer, expected="zarr metadata")
    try:
        if (difference := _difference(data, metadata(spec, layout))) is not None:
            return Fault(path=path, found=difference[0], expected=difference[1])
    except (ValueError, TypeError, RecursionError) as error:
        kind = type(error).__name__
        return Fault(path=path, found=f"unreadable ({kind})", expected="zarr metadata")
    if data != to_json(metadata(spec, layout)):
        return Fault(path=path, found="written differently", expected="equal bytes")
    return None


def _difference(data: bytes, expected: dict[str, Any]) -> tuple[str, str] | None:
    """The first entry that is not as expected, and what was expected."""
    found = dict(json.loads(data))
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            return f"with {key} = {found.get(key)!r:.200}", f"{expected.get(key)!r}"
    return None


def size_fault(path: Path, expected: int) -> Fault | None:
    """A file that is not there, no file, or of another size."""
    try:
        if (fault := odd_file(path)) is not None:
            return fault
        found = path.stat().st_size
    except OSError as error:
        return Fault(path=path, found=_unread(error), expected=f"{expected} bytes")
    if found == expected:
        return None
    return Fault(path=path, found=f"with {found} bytes", expected=f"{expected} bytes")


def _unread(error: OSError) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
