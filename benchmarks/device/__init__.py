"""All that a device is to show, in one process of nine minutes, after each stage's own deadline.

Each figure is written as it is made; what no time was left for is left out by name. A stage that
hangs ends the process, with its stack, and leaves what was written.
"""

import faulthandler
import time
from collections.abc import Callable, Iterator

from benchmarks.device import checks, rates
from benchmarks.figures import Figure, LeftOut
from benchmarks.timing import DEVICE

_IS_CUDA = DEVICE == "cuda"
_LENIENCE = 60.0  # seconds that one figure may take beyond its stage's end
_SHARES = {
    "ceilings": 0.05,
    "products of eight bits": 0.02,
    "kernels against float64": 0.25,
    "steps against the CPU": 0.12,
    "kernels alone": 0.15,
    "steps": 0.31,
    "harvest": 0.1,
}
PACKAGES = ("triton", "transformers")
SMOKE = {
    "widths": (64,),
    "d_in": 16,
    "batch": 32,
    "num_steps": 3,
    "beyond": 256,
    "checked_latents": 64,
    "lm_width": 16,
}


def run(
    widths: tuple[int, ...] = (16_384, 65_536, 131_072, 1_048_576),
    kinds: tuple[str, ...] = ("topk", "topk+auxk", "batchtopk", "jumprelu"),
    d_in: int = 2304,
    batch: int = 4096,
    num_steps: int = 50,
    beyond: int = 1 << 20 if _IS_CUDA else 1 << 12,
    checked_latents: int = 4096,
    lm_width: int = 2304,
    seconds: float = 540.0,
) -> Iterator[Figure | LeftOut]:
    """Correctness, then the machine's ceilings, the kernels, the steps and a harvest beside them.

    Args:
        widths: numbers of latents of the steps that are timed.
        kinds: of their coders.
        d_in: width of the activations.
        batch: rows of a step.
        num_steps: of each of the three runs that are timed.
        beyond: latents of matrices whose last entries lie beyond what 32 bits can say.
        checked_latents: of the steps of every kind that are held against a CPU's.
        lm_width: of the language model that is harvested; 2,304 is Gemma 2 2B's.
        seconds: for all.
    """
    sizes = d_in, batch
    stages: dict[str, Callable[[], Iterator[Figure | LeftOut]]] = {
        "ceilings": lambda: rates.ceilings(widths[0], *sizes),
        "products of eight bits": lambda: rates.eight_bits(widths[0], *sizes),
        "kernels against float64": lambda: checks.kernels(d_in, beyond),
        "steps against the CPU": lambda: checks.steps(checked_latents, min(d_in, 256)),
        "kernels alone": lambda: rates.kernels(widths[0], *sizes),
        "steps": lambda: rates.steps(kinds, widths, *sizes, num_steps),
        "harvest": lambda: rates.harvest(lm_width),
    }
    end = time.monotonic()
    for name, stage in stages.items():
        end += _SHARES[name] * seconds
        yield from _in_time(name, stage(), end)


def _in_time(
    name: str, figures: Iterator[Figure | LeftOut], end: float
) -> Iterator[Figure | LeftOut]:
    """The figures of a stage until it is over, has failed, or its time has ended."""
    while True:
        left = end - time.monotonic()
        if left <= 0:
            yield LeftOut(name, "what is not here found no time")
            return
        faulthandler.dump_traceback_later(left + _LENIENCE, exit=True)
        try:
            found = next(figures, None)
        except Exception as error:
            yield LeftOut(name, f"{type(error).__name__}: {error}".splitlines()[0])
            return
        finally:
            faulthandler.cancel_dump_traceback_later()
        if found is None:
            return
        yield found
