"""The commands: each composes its configuration, builds what it needs, and runs it."""
