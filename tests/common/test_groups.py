"""Which coders are held at once."""

import pytest

from sae_dist.common.groups import held_together


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([16, 1, 8, 2, 4], [[1, 2, 4, 8], [16]]),
        ([4, 4, 8, 2, 2], [[2, 2], [4, 4], [8]]),
        ([2, 2, 2, 2, 4], [[2, 2, 2, 2], [4]]),
        ([3], [[3]]),
        ([], []),
    ],
)
def test_narrow_coders_are_held_together_as_far_as_the_largest_width_goes(
    widths: list[int], expected: list[list[int]]
) -> None:
    assert held_together(widths, key=int) == expected
