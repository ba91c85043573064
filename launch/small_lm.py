"""See `sae_dist/apps/small_lm.py`, or --help."""

from sae_dist.apps.small_lm import main

if __name__ == "__main__":
    main()
