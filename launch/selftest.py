"""See `sae_dist/apps/selftest.py`, or --help."""

from sae_dist.apps.selftest import main

if __name__ == "__main__":
    main()
