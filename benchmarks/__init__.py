"""Step times of this project beside its peers' and beside the machine's own limits."""
