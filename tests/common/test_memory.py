"""When garbage is collected."""

import gc
import weakref

from sae_dist.common.memory import collected_every


class Loop:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


def test_garbage_is_collected_when_it_is_time_and_not_before() -> None:
    with collected_every(3) as called:
        assert not gc.isenabled()
        alive = weakref.ref(Loop())
        found = []
        for _ in range(4):
            called()
            found.append(alive() is not None)
    assert found == [True, True, False, False]
    assert gc.isenabled() and gc.get_freeze_count() == 0
