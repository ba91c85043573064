"""What of the runs stands beside ours, and what is timed of a run."""

from typing import Any

import pytest

from benchmarks.endtoend import figures
from benchmarks.runners.job import Job, Phases


def run(seconds: float, fvu: float) -> dict[str, Any]:
    return {"seconds": seconds, "peak_bytes": 1e9 * seconds, "fvu": fvu}


def test_ours_stands_beside_each_peers_fastest_run_and_best_coder() -> None:
    others = {"sae_lens:sparse": run(9.0, 0.3), "sparsify:adam": run(8.0, 0.2)}
    others["sparsify:signum"] = run(7.0, 0.4)
    seconds, peak, fvu = figures("live", run(2.0, 0.1), others, {"k": 4})
    assert seconds.others == {"SAELens": 9.0, "sparsify": 7.0} and seconds.times_better == 3.5
    assert peak.others == {"SAELens": 9.0, "sparsify": 7.0} and peak.unit == "GB"
    assert fvu.others == {"SAELens": 0.3, "sparsify": 0.2} and fvu.best_other == "sparsify"
    assert fvu.more["k"] == 4 and fvu.more["runs"].keys() == {"ours", *others}
    assert all(figure.others == {} for figure in figures("live", run(2.0, 0.1), {}, {}))


def test_phases_add_up_what_is_timed_and_pass_on_what_is_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter([0.0, 1.0, 5.0, 7.0])
    monkeypatch.setattr("benchmarks.runners.job.time.perf_counter", lambda: next(ticks))
    phases = Phases()
    double = phases.timed("double", lambda x, *, times=2: x * times)
    assert (double(3), double(3, times=3)) == (6, 9)
    assert phases == {"double": 3.0}


def test_a_job_counts_its_steps_and_a_pass_sequences() -> None:
    shape = {"layer": 2, "length": 128, "tokens": 10_240, "batch": 1024, "num_latents": 8, "k": 2}
    job = Job(lm="lm", text="t", to="to", lr=0.1, **shape)
    assert (job.num_steps, job.warmup_steps, job.batch_sequences) == (10, 1, 8)
