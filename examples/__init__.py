"""Whole experiments with sae_dist, each a folder that says what it shows and how it is run."""
