"""See `sae_dist/apps/plan.py`, or --help."""

from sae_dist.apps.plan import main

if __name__ == "__main__":
    main()
