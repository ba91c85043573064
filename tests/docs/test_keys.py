"""Keys, names and places that the documents mention exist."""

import importlib
import re
from pathlib import Path

import pytest

from sae_dist.apps import console, help
from tests.apps.commands import ROOT
from tests.docs.shell import documents

_KEY = re.compile(r"`\+?([a-z]\w*(?:\.[a-z]\w*)+)=?[^`/(]*`")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_FILES = (".json", ".jsonl", ".py", ".safetensors", ".sbatch", ".svg", ".yaml")
PACKAGES = sorted(path.parent for path in (ROOT / "sae_dist").glob("*/__init__.py"))


def known_keys() -> set[str]:
    keys = {word.partition("=")[0] for root in console.COMMANDS for word in help.words(root)}
    return keys | {f"harvest.{word.partition('=')[0]}" for word in help.words("harvest")}


def test_every_key_that_is_mentioned_can_be_set() -> None:
    keys = known_keys()
    groups = {key.partition(".")[0] for key in keys if "." in key}
    found = {
        (path.name, key)
        for path in documents()
        for key in _KEY.findall(path.read_text())
        if key.partition(".")[0] in groups and not key.endswith(_FILES)
    }
    assert len(found) > 60
    assert sorted((name, key) for name, key in found if key not in keys) == []


def test_what_a_target_l0_costs_is_told_alike() -> None:
    """As tests/coders/test_losses.py finds it in the code."""
    paths = [*documents(), *(ROOT / "conf").rglob("*.yaml")]
    said = (formula for path in paths for formula in re.findall(r"λ \([^|]*?²", path.read_text()))
    assert {re.sub(r"[\\\s]", "", formula) for formula in said} == {"λ(2/L0*)(L0-L0*)²"}


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_what_is_in_the_repository(path: Path) -> None:
    for target, anchor in _LINK.findall(path.read_text()):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{target} in {path.name}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{target}#{anchor} in {path.name}"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_reference_shows_all_that_a_package_exports(package: Path) -> None:
    """A function named as the module it is in hides behind it, and has an entry of its own."""
    names = getattr(importlib.import_module(f"sae_dist.{package.name}"), "__all__", [])
    if not names:
        pytest.skip("exports nothing, or for its own command alone")
    page = (ROOT / "docs" / "reference" / f"{package.name}.md").read_text().splitlines()
    assert f"::: sae_dist.{package.name}" in page
    for name in names:
        if (package / f"{name}.py").exists():
            assert f"::: sae_dist.{package.name}.{name}.{name}" in page
