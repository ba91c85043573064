"""Progress in a file, where a bar cannot be drawn again."""

import math

from tqdm import tqdm


class Lines(tqdm):
    """A bar for a file: a line at the start, one every `mininterval` seconds, one at the end.

    tqdm's own thread asks for them, too, so that there is one while nothing moves.
    """

    _shown_at = -math.inf

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line if it is time for one."""
        elapsed = self.format_dict["elapsed"]
        if msg is None and elapsed - self._shown_at >= self.mininterval:
            self._shown_at = elapsed
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Nothing of a file is taken back."""

    def close(self) -> None:
        """Write the last line."""
        if not self.disable:
            self._shown_at = -math.inf
            self.display()
        self.leave = False
        super().close()
