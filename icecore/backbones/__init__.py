"""Backbones by name. Importing loads no weights."""
