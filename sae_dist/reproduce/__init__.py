"""What `make reproduce` has of its own: a corpus of conversations, and claims beside figures."""
