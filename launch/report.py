"""See `sae_dist/apps/report.py`, or --help."""

from sae_dist.apps.report import main

if __name__ == "__main__":
    main()
