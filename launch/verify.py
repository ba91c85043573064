"""See `sae_dist/apps/verify.py`, or --help."""

from sae_dist.apps.command import run

if __name__ == "__main__":
    run("verify")
