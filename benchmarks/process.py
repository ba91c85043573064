"""Call a function in a process of its own, with any Python: so peaks and versions are its own."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def call(
    function: str, options: dict[str, Any], seconds: float, python: str | Path = sys.executable
) -> dict[str, Any] | str:
    """What `package.module:function(**options)` returns, or in a line why it gave nothing.

    Args:
        function: returns what JSON can hold.
        options: what JSON can hold.
        seconds: after which it is ended.
        python: the interpreter.
    """
    command = [str(python), "-W", "ignore", "-m", __name__, function, json.dumps(options)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {seconds:g} s"
    except OSError as error:
        return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """What `call` starts: the function's name, and its options as JSON."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
