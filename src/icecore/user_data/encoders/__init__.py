"""Rows of your own data as tokens."""
