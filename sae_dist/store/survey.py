"""What the JSON files of a store say together, and where they fail or disagree."""

from dataclasses import dataclass, field
from pathlib import Path

from sae_dist.store.allowed import grid_problems, manifest_problems
from sae_dist.store.arrays import site_specs
from sae_dist.store.fault import Fault, FaultError
from sae_dist.store.schema import (
    MANIFEST_FILE,
    SETTINGS_FILE,
    TOKENS_COMMIT,
    AnyRecord,
    FileRecord,
    Manifest,
    Record,
    Settings,
    ShardCommit,
    TokensCommit,
    commit_file,
    load,
)

UNSEALED_FILE = ".repair/MANIFEST.json"  # of a store that a repair has unsealed


@dataclass(kw_only=True, slots=True)
class Survey:
    """The whole ones among a store's JSON files, and `faults` about the others.

    `manifest` is the seal, or what it was before a repair broke it. `is_sealed` tells whether there
    is one for readers; `is_complete` whether every unit was committed once.
    """

    root: Path
    manifest: Manifest | None = None
    settings: Settings | None = None
    tokens: TokensCommit | None = None
    commits: dict[int, ShardCommit] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    is_sealed: bool = False
    is_complete: bool = False

    @property
    def num_units(self) -> int:
        """Units of the whole store; 0 while that is not known."""
        if self.settings is None or self.tokens is None:
            return 0
        return self.settings.layout(self.tokens.num_sequences).num_shards

    def records(self) -> dict[str, FileRecord]:
        """Size and checksums of every shard file that something whole vouches for."""
        if self.manifest is not None:
            return {path: r for shard in self.manifest.shards for path, r in shard.files.items()}
        tokens = {} if self.tokens is None else self.tokens.files
        activations = (commit.files for commit in self.commits.values())
        return {**tokens, **{path: r for files in activations for path, r in files.items()}}


def survey(root: Path, max_shard_bytes: int) -> Survey:
    """Read and compare the manifest, the settings and all commits of a store, sealed or not."""
    found = Survey(root=root, is_sealed=(root / MANIFEST_FILE).exists())
    found.manifest = _manifest(found, max_shard_bytes) or _whole(found, UNSEALED_FILE, Manifest)
    found.settings = _whole(found, SETTINGS_FILE, Settings)
    found.tokens = _whole(found, TOKENS_COMMIT, TokensCommit)
    if found.manifest is not None:
        _compare(found, SETTINGS_FILE, found.settings, found.manifest.settings)
        _compare(found, TOKENS_COMMIT, found.tokens, found.manifest.tokens)
        found.settings, found.tokens = found.manifest.settings, found.manifest.tokens
    elif found.settings is not None and found.tokens is not None:
        _check_grid(found, found.settings, found.tokens, max_shard_bytes)
    is_committed = [(root / commit_file(unit)).exists() for unit in range(found.num_units)]
    was_unsealed = (root / UNSEALED_FILE).parent.exists()
    found.is_complete = (
        found.is_sealed or was_unsealed or (all(is_committed) and found.num_units > 0)
    )
    for unit in range(found.num_units):
        _commit(found, unit)
    if found.is_complete and not found.is_sealed:
        _blame(found, MANIFEST_FILE, "missing", "the seal of a store that was whole once")
    return found


def _manifest(found: Survey, max_shard_bytes: int) -> Manifest | None:
    manifest = _whole(found, MANIFEST_FILE, Manifest)
    problems = [] if manifest is None else list(manifest_problems(manifest, True, max_shard_bytes))
    _contradictions(found, MANIFEST_FILE, problems)
    return None if problems else manifest


def _check_grid(
    found: Survey, settings: Settings, tokens: TokensCommit, max_shard_bytes: int
) -> None:
    """Forget settings and tokens that cannot be right, or do not belong together."""
    problems = list(grid_problems(settings, tokens, max_shard_bytes))
    _contradictions(found, TOKENS_COMMIT, problems)
    if problems:
        found.settings = found.tokens = None


def _commit(found: Survey, unit: int) -> None:
    """Keep a unit's commit if it is whole and speaks of this unit."""
    file = commit_file(unit)
    commit = _whole(found, file, ShardCommit)
    if commit is None:
        if found.is_complete and not (found.root / file).exists():
            _blame(found, file, "missing", "the commit of a unit that was written")
        return
    assert found.settings is not None
    specs = site_specs(found.settings.widths, 1, found.settings.dtype).values()
    expected = {spec.file(unit) for spec in specs}
    if found.manifest is not None:
        shard = found.manifest.shards[unit]
        same = {path: shard.files[path] for path in expected} == commit.files
        same = same and shard.trainable_per_chunk == commit.trainable_per_chunk
        same = same and shard.dropped == commit.dropped
    else:
        same = set(commit.files) == expected
    if same:
        found.commits[unit] = commit
    else:
        _blame(found, file, "of other files than its own", f"those of unit {unit}")


def _compare(found: Survey, file: str, record: Record | None, expected: Record) -> None:
    if record is None and not (found.root / file).exists():
        _blame(found, file, "missing", "what the manifest was made of")
    elif record is not None and record != expected:
        _blame(found, file, "different from the manifest", "what the manifest was made of")


def _whole(found: Survey, file: str, kind: type[AnyRecord]) -> AnyRecord | None:
    """A file's record; None, and a fault, if it is damaged; None if it is missing."""
    try:
        return load(found.root / file, kind)
    except FileNotFoundError:
        return None
    except FaultError as error:
        found.faults.append(error.fault)
    except OSError as error:
        _blame(found, file, f"unreadable ({error.strerror})", "a file that can be read")
    return None


def _contradictions(found: Survey, file: str, problems: list[str]) -> None:
    for problem in problems:
        said, _, expected = problem.partition("; expected ")
        _blame(found, file, f"with {said}", expected)


def _blame(found: Survey, file: str, said: str, expected: str) -> None:
    found.faults.append(Fault(path=found.root / file, found=said, expected=expected))
