"""`python -m sae_dist COMMAND …`, and so `torchrun -m sae_dist train …`."""

from sae_dist.apps.console import main

if __name__ == "__main__":
    main()
