"""The other libraries themselves, in an environment of their own, beside our coders.

`make test-interop` makes that environment and names its Python in SAE_DIST_CLIENTS.
"""

import itertools

import pytest

from tests.coders.kinds import FORMS, KINDS
from tests.interop.measure import BEGIN, DOCS, END, Difference, measure, python, tables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(python() is None, reason="no clients: run `make test-interop`"),
]
MOST = 1e-5  # of a difference, relative to the largest value


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Difference], dict[str, str]]:
    return measure(tmp_path_factory.mktemp("clients"))


def test_clients_compute_what_we_compute(found: tuple[list[Difference], dict]) -> None:
    differences, _ = found
    ours = {(d.client, d.coder) for d in differences if d.written_by == "sae_dist"}
    every = {f"{kind} {form.replace('_', ' ')}" for kind, form in itertools.product(KINDS, FORMS)}
    assert every < {coder for _, coder in ours} and len(ours) == 47
    assert len(differences) == 77
    bad = [d for d in differences if max(d.latents, d.reconstruction) > MOST or d.flips]
    assert bad == []


def test_the_docs_have_the_same_rows(found: tuple[list[Difference], dict]) -> None:
    written = DOCS.read_text().partition(BEGIN)[2].partition(END)[0]
    expected = [row.split("|")[1] for row in tables(*found).splitlines() if row.startswith("|")]
    assert [row.split("|")[1] for row in written.splitlines() if row.startswith("|")] == expected
