"""Inference: an engine that serves many programs on one body in one pass, and maps of what a program attends to."""
