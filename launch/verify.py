"""See `sae_dist/apps/verify.py`, or --help."""

from sae_dist.apps.verify import main

if __name__ == "__main__":
    main()
