"""No option is declared and never read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "sae_dist"


def options(root: Path) -> Iterator[tuple[str, str]]:
    """(class, field) of every dataclass that is a configuration."""
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_kind = path.parent.name in ("kinds", "optimizers")
            if isinstance(node, ast.ClassDef) and (is_kind or node.name.endswith("Config")):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        yield node.name, field.target.id


def read_names(root: Path) -> set[str]:
    """Every `x` of an `….x` whose value is taken, of a measure's `sequences = "….x"`, or of the
    table `_SHAPE`, by whose names a configuration is read.
    """
    found = set()
    for node in (n for path in root.rglob("*.py") for n in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sequences":
            found.add(ast.unparse(node.value).strip("'").rpartition(".")[2])
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_SHAPE":
            found |= set(ast.literal_eval(node.value))
    return found


def test_every_option_is_read() -> None:
    found, read = list(options(ROOT)), read_names(ROOT)
    assert len(found) > 80
    assert [f"{owner}.{field}" for owner, field in found if field not in read] == []


@pytest.mark.parametrize(("use", "expected"), [("config.rate", True), ("rate", False)])
def test_an_option_that_is_never_read_is_found(tmp_path: Path, use: str, expected: bool) -> None:
    source = (
        f"class RateConfig:\n    rate: float = 1.0\n\n\ndef f(config, rate):\n    return {use}\n"
    )
    (tmp_path / "rate.py").write_text(source)
    assert list(options(tmp_path)) == [("RateConfig", "rate")]
    assert ("rate" in read_names(tmp_path)) == expected
