"""The version of icecore, which summaries and program files record."""

__version__ = "0.2.0"
