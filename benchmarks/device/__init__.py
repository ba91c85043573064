"""All that a device is to show, in one process of nine minutes, after each stage's own deadline.

Each figure is written as it is made. What no time was left for, or failed, is left out by name, and
the rest goes on. A stage that hangs ends the process, with its stack, and leaves what was written.
"""

import faulthandler
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.device import checks, rates
from benchmarks.device.parts import Parts
from benchmarks.figures import Figure, LeftOut
from benchmarks.timing import DEVICE
from sae_dist.parallel import start_world

_IS_CUDA = DEVICE == "cuda"
_LENIENCE = 60.0  # seconds that a figure may take beyond its stage's end
_SHARES = {
    "ceilings": 0.05,
    "products of eight bits": 0.02,
    "kernels against float64": 0.25,
    "steps against the CPU": 0.12,
    "a step replayed": 0.05,
    "kernels alone": 0.15,
    "steps": 0.26,
    "harvest": 0.1,
}
PACKAGES = ("triton", "transformers")
SMOKE = {
    "widths": (64,),
    "d_in": 16,
    "batch": 32,
    "num_steps": 3,
    "beyond": 2048,
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
    seconds: float = 510.0,
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
        seconds: for all but the imports, after which the process ends in any case.
    """
    begin, sizes = time.monotonic(), (d_in, batch)
    with start_world() as world:
        stages: dict[str, Callable[[], Parts]] = {
            "ceilings": partial(rates.ceilings, widths[0], *sizes),
            "products of eight bits": partial(rates.eight_bits, widths[0], *sizes),
            "kernels against float64": partial(checks.kernels, d_in, beyond),
            "steps against the CPU": partial(checks.steps, checked_latents, min(d_in, 256), world),
            "a step replayed": partial(checks.graphs, widths[0], *sizes, world),
            "kernels alone": partial(rates.kernels, widths[0], *sizes),
            "steps": partial(rates.steps, kinds, widths, *sizes, num_steps, world),
            "harvest": partial(rates.harvest, lm_width),
        }
        for name in stages:
            yield LeftOut(name, "the process ended before")
        end = begin
        for name, parts in stages.items():
            end += _SHARES[name] * seconds
            yield from in_time(name, parts(), end, begin + seconds)


def in_time(name: str, parts: Parts, end: float, last: float) -> Iterator[Figure | LeftOut]:
    """The figures of a stage until its end, and then how long it took or what is not here.

    A part that fails is left out, and the next one begins.

    Args:
        end: of the stage, by `time.monotonic()`.
        last: when the process is to have ended.
    """
    begin, following = time.monotonic(), "all of it"
    yield LeftOut(name, "the process ended within")
    faulthandler.dump_traceback_later(max(1.0, min(end + _LENIENCE, last) - begin), exit=True)
    try:
        for part, figures in parts:
            try:
                for figure in figures() if time.monotonic() < end else ():
                    yield figure
                    following = f"what comes after {figure.name}"
                    if time.monotonic() >= end:
                        break
            except Exception as error:
                yield LeftOut(part, _in_a_line(error))
                following = f"what comes after {part}"
            if time.monotonic() >= end:
                yield LeftOut(name, f"no time for {following}")
                return
        yield Figure(name, time.monotonic() - begin, "s", more={"limit": end - begin})
    except Exception as error:
        yield LeftOut(name, f"{following}: {_in_a_line(error)}")
    finally:
        faulthandler.cancel_dump_traceback_later()


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
