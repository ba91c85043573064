"""See `sae_dist/apps/small_lm.py`, or --help."""

from sae_dist.apps.command import run

if __name__ == "__main__":
    run("small_lm")
