"""Whatever is typed ends in a configuration or in one line: never in another exception."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_dist.apps import cli, console
from sae_dist.apps.foreign import KEYS
from sae_dist.apps.keys import choices, keys
from sae_dist.common.errors import UserError
from tests.apps.test_cli import GIVEN

EXAMPLES = 140  # for each of sixteen commands
ANY = st.text(max_size=12)
WORDS = st.sampled_from(
    "topk batchtopk 16K 1e6 nan inf -1 0 1 null true ??? ~ ${seed} ${ ${a.b} ${oc.env:HOME} \\${x} "
    "[a,b] [] {} {a:1} [{coder.k:[2,4]}] {coder:{k:3}} 'a' \"a 'a a' [[ ]] }{ a=b (x) # 9e999 1_0 "
    "!!python/object:os.system &a *a hub:a/b@c coder:x live resid_post.1 blocks.1.hook_z 16Ki "
    "1e-400 ${.} ${..x} ${oc.create:{a:b}} ${run} ${store} 131K \x00 \u2028 0x10 1,2 {a:} {:a} [,] "
    "quickstart".split(" ")
)
SCALARS = st.one_of(
    WORDS,
    ANY,
    st.integers().map(str),
    st.floats().map(repr),
    st.integers(1, 10**400).map(lambda number: f"{number}K"),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{','.join(found)}]"),
        st.lists(st.tuples(SCALARS, inner), max_size=3).map(
            lambda found: "{" + ",".join(f"{key}:{value}" for key, value in found) + "}"
        ),
        st.tuples(st.sampled_from("'\""), inner).map(lambda pair: pair[0] + pair[1] + pair[0]),
    ),
    max_leaves=5,
)


def arguments(root: str) -> st.SearchStrategy[list[str]]:
    known = [*keys(root), *(group.lstrip("+") for group in choices(root))]
    key = st.one_of(
        st.sampled_from(known),
        st.sampled_from(known),
        st.sampled_from(
            [*KEYS, "experiment", "harvest.tokens", "train.tokens", "_target_", "hydra"]
        ),
        st.tuples(st.sampled_from(known), ANY).map(".".join),
        ANY,
    )
    before = st.sampled_from(["", "", "", "+", "++", "~", "--", "-"])
    override = st.tuples(before, key, st.sampled_from(["=", "=", "=", ""]), VALUES).map("".join)
    return st.lists(override, min_size=1, max_size=4)


def outcome(of: Callable[[], object]) -> None:
    try:
        of()
    except UserError as error:
        assert str(error).strip()
        assert len(str(error)) < 2000


@pytest.mark.slow
@pytest.mark.parametrize("root", console.COMMANDS)
def test_whatever_is_typed_ends_in_a_configuration_or_in_one_line(root: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(arguments(root))
    def typed(overrides: list[str]) -> None:
        given = [*GIVEN[root], *overrides]
        outcome(lambda: cli.compose(root, given))

    typed()
