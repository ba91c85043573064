"""The architecture as a test: imports point down only, and each room imports what DESIGN allows."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "sae_dist"

FLOORS = {
    1: ["common", "text", "lm", "kernels"],
    2: ["store", "coders"],
    3: ["harvest", "stream", "parallel", "checkpoint", "interop"],
    4: ["train", "evaluate", "latents", "selftest", "plan", "live", "attach"],
    5: ["report", "explain", "pages", "handoff", "finetune"],
    6: ["config"],
    7: ["apps"],
    8: ["__main__"],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# room: the rooms it may import besides itself and `common`
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "text": set(),
    "lm": set(),
    "report": {"evaluate", "coders"},
    "kernels": set(),
    "store": set(),
    "coders": {"kernels"},
    "harvest": {"text", "lm", "store"},
    "stream": {"store"},
    "parallel": {"coders"},
    "checkpoint": {"coders"},
    "interop": {"coders"},
    "live": {"text", "lm", "store", "harvest", "stream"},
    "config": set(FLOOR)
    - {"apps", "__main__", "config", "selftest", "live", "report", "pages", "attach"},
    "train": {"coders", "kernels", "parallel", "stream", "checkpoint", "interop"},
    "evaluate": {"text", "lm", "coders", "kernels", "parallel", "stream", "checkpoint"},
    "latents": {"lm", "coders", "kernels", "parallel", "stream", "checkpoint"},
    "explain": {"latents", "lm", "evaluate"},
    "pages": {"latents"},
    "handoff": {"latents", "coders", "interop"},
    "finetune": {"train", "evaluate", "lm", "store", "stream", "parallel"},
    "selftest": {"store", "stream", "parallel"},
    "attach": {"text", "lm", "coders", "kernels", "interop"},
    "plan": {"lm", "coders", "store", "stream", "parallel", "live", "train"},
    "apps": set(FLOOR) - {"apps", "__main__"},
    "__main__": {"apps"},
    "__init__": {"apps", "store", "interop", "attach"},
}
# package: the only rooms that may import it
RESERVED = {
    "zarr": {"store"},
    "torch.distributed": {
        *("parallel", "train", "checkpoint", "evaluate", "selftest", "apps", "harvest"),
    },
}
# room: the only packages from outside that it may import, besides the standard library
SELF_CONTAINED = {"kernels": {"torch", "triton"}, "coders": {"torch", "triton", "safetensors"}}
# rooms that import with these packages, and what they need, alone, but for one module
OF_A_STEP, ENOUGH = ("kernels", "coders", "parallel", "train"), ("torch", "triton", "safetensors")
_BESIDE = "train/wandb_tracker.py"
# room: packages that it may not import
FORBIDDEN = {"train": {"transformers"}}


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a file imports, wherever it stands in it.

    `from a import b` counts as `a.b` (b may be a module); so do `torch.distributed` and
    `sae_dist.b`, wherever they are used, as the bare package brings them along.
    """
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.ImportFrom():
                yield node.lineno, "a relative import"
            case ast.Attribute(value=ast.Name(id="torch"), attr="distributed"):
                yield node.lineno, "torch.distributed"
            case ast.Attribute(value=ast.Name(id="sae_dist"), attr=name) if name != "__file__":
                yield node.lineno, f"sae_dist.{name}"


def complaint(room: str, module: str) -> str | None:
    """Why `room` may not import `module`; None where it may."""
    package, _, rest = module.partition(".")
    if module == "a relative import":
        return "use absolute imports"
    if package == "sae_dist":
        target = rest.partition(".")[0]
        if target in {"", "__version__", room, "common"} | MAY_IMPORT[room]:
            return None
        return f"may import only {sorted(MAY_IMPORT[room] | {'common'})}"
    for reserved, rooms in RESERVED.items():
        if f"{module}.".startswith(f"{reserved}.") and room not in rooms:
            return f"{reserved} is reserved for {sorted(rooms)}"
    if package in FORBIDDEN.get(room, set()):
        return "is forbidden here"
    allowed = SELF_CONTAINED.get(room, {package}) | sys.stdlib_module_names
    return None if package in allowed else f"needs nothing but {sorted(SELF_CONTAINED[room])}"


def violations(root: Path) -> list[str]:
    """One line for each import below `root` that the tables above do not allow."""
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        room = place.parts[0].removesuffix(".py")
        if room not in MAY_IMPORT:
            found.append(f"{place}: unknown room {room!r}; add it to the tables of this test")
            continue
        for line, module in imported_modules(path):
            if reason := complaint(room, module):
                found.append(f"{place}:{line}: {module}: {room} {reason}")
    return found


def test_imports_point_down_only() -> None:
    assert violations(ROOT) == []


def test_the_table_itself_points_down() -> None:
    assert set(MAY_IMPORT) == {*FLOOR, "__init__"}
    sideways = {("plan", "train"), ("plan", "live")}  # a plan is of training
    for room, targets in MAY_IMPORT.items():
        for target in targets if room in FLOOR else ():
            assert FLOOR[target] < FLOOR[room] or (room, target) in sideways


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("stream/order.py", "from sae_dist.coders import Coder"),
        ("store/writer.py", "import sae_dist.stream.order"),
        ("common/log.py", "from sae_dist import text"),
        ("train/loop.py", "from sae_dist.lm import load_lm"),
        ("train/step.py", "def f():\n    from transformers import AutoModel"),
        ("report/page.py", "import zarr"),
        ("coders/topk.py", "import torch.distributed as dist"),
        ("coders/topk.py", "from torch import distributed"),
        ("coders/topk.py", "import torch\ntorch.distributed.get_rank()"),
        ("coders/topk.py", "import numpy as np"),
        ("kernels/plain.py", "from safetensors import safe_open"),
        ("train/loop.py", "from .step import train_step"),
        ("train/loop.py", "from sae_dist import open_store"),
        ("train/loop.py", "import sae_dist\nsae_dist.open_store('a')"),
        ("utils/misc.py", ""),
        ("helpers.py", ""),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, source: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("apps/train.py", "import zlib\nfrom sae_dist import train, __version__"),
        ("config.py", "from sae_dist.train import TrainConfig"),
        ("config.py", "import sae_dist\nsae_dist.__file__"),
        ("coders/files.py", "from safetensors.torch import load_file\nimport sae_dist.kernels"),
        ("kernels/dispatch.py", "import math\nimport triton.language as tl"),
        ("parallel/mesh.py", "import torch.distributed as dist"),
        ("store/reader.py", "import zarr\nfrom sae_dist.common.files import crc32c"),
    ],
)
def test_an_allowed_import_passes(tmp_path: Path, file: str, source: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(source)
    assert violations(tmp_path) == []


def needed_by(*packages: str) -> set[str]:
    """Packages and all that they need, by name; and numpy, from which safetensors makes tensors."""
    found, left = set(), [*packages, "numpy"]
    while left:
        name = left.pop().lower().replace("-", "_")
        if name not in found:
            found.add(name)
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # as triton on a Mac
                continue
            left += [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    return found


def packages_beside(*packages: str) -> list[str]:
    """What can be imported here that none of these packages needs."""
    enough = needed_by(*packages) | {"sae_dist"}
    installed = importlib.metadata.packages_distributions().items()
    return [
        module
        for module, names in installed
        if not {name.lower().replace("-", "_") for name in names} & enough
    ]


def test_what_takes_a_step_imports_with_torch_triton_and_safetensors_alone() -> None:
    absent = packages_beside(*ENOUGH)
    assert {"crc32c", "msgspec", "tqdm", "wandb", "zarr"} <= set(absent)
    paths = sorted(
        path.relative_to(ROOT) for room in OF_A_STEP for path in (ROOT / room).rglob("*.py")
    )
    modules = [".".join(("sae_dist", *p.with_suffix("").parts)) for p in paths if str(p) != _BESIDE]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"  # each raises ModuleNotFoundError
        f"for name in {modules}: importlib.import_module(name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
