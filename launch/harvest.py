"""See `sae_dist/apps/harvest.py`, or --help."""

from sae_dist.apps.harvest import main

if __name__ == "__main__":
    main()
