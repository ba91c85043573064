"""What `make reproduce` runs: a corpus of conversations, and published claims beside figures."""
