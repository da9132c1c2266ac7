"""The commands, a few lines each over the public API; cli.py puts them together."""
