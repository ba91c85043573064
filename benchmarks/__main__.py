"""Run benchmarks, and bring their results and the README's table up to date.

    python -m benchmarks NAME [--option VALUE …]

Options are the arguments of the benchmark's `run`; `--smoke` takes sizes that only show that it
runs, `--keep` keeps the figures of the last run that this one does not make again, and `--to`
writes elsewhere. Without a NAME: steps, stream, harvest and endtoend. `table` only makes the table
again.
"""

import argparse
import importlib
import inspect
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.figures import README, RESULTS, LeftOut, Results, read_results, with_results
from benchmarks.machine import circumstances

_BENCH = ("steps", "stream", "harvest", "endtoend")


def module_of(name: str) -> ModuleType:
    """The module of a benchmark: its `run` yields figures, `SMOKE` holds its smallest sizes."""
    return importlib.import_module(f"benchmarks.{name}")


def options_of(module: ModuleType) -> argparse.ArgumentParser:
    """The arguments of a benchmark's `run`, by their defaults."""
    parser = argparse.ArgumentParser(
        prog=module.__name__, description=module.__doc__, argument_default=argparse.SUPPRESS
    )
    for name, parameter in inspect.signature(module.run).parameters.items():
        value = parameter.default
        kind, number = (type(value[0]), "+") if isinstance(value, tuple) else (type(value), None)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=Path if issubclass(kind, Path) else kind,
            nargs=number,
            help=f"{value}",
        )
    parser.add_argument("--smoke", action="store_true", help="sizes that show that it runs")
    parser.add_argument("--keep", action="store_true", help="figures that are not made again")
    parser.add_argument("--to", type=Path, help="another folder for the results")
    return parser


def run(name: str, arguments: list[str]) -> Path:
    """Run one benchmark; its results are written after every figure."""
    module = module_of(name)
    asked: dict[str, Any] = vars(options_of(module).parse_args(arguments))
    smoke, keep, folder = asked.pop("smoke", False), asked.pop("keep", False), asked.pop("to", None)
    options = (module.SMOKE if smoke else {}) | asked
    where = circumstances(*getattr(module, "PACKAGES", ()))
    gpu = re.sub(r"[^a-z0-9]+", "-", where["gpu"].lower()).strip("-")
    folder = folder or (Path(tempfile.mkdtemp()) if smoke else RESULTS)
    path = folder / f"{'-'.join(filter(None, [name, gpu]))}.json"
    results = Results(name, where, options)
    if keep and path.exists():
        results = read_results(path)
        results.where, results.options = where, options
    for found in module.run(**options):
        results.add(found)
        results.write(path)
        is_none = isinstance(found, LeftOut)
        print(found.name, found.why if is_none else " | ".join(found.cells()[1:]), flush=True)
    if hasattr(module, "draw"):
        results.drawings = module.draw(results.figures, path.parent)
        results.write(path)
    return path


def main() -> None:
    """The command."""
    name, *arguments = sys.argv[1:] or [_BENCH[0]]
    if name not in (*BENCHMARKS, "table"):
        sys.exit(f"{__doc__}\nNAME is table or one of {', '.join(BENCHMARKS)}")
    names = () if name == "table" else (name,) if len(sys.argv) > 1 else _BENCH
    written = [run(name, arguments) for name in names]
    print("".join(f"wrote {path}\n" for path in written), end="")
    if name == "table" or any(path.parent == RESULTS for path in written):
        README.write_text(with_results(README.read_text()))


if __name__ == "__main__":
    main()
