"""Experiments: many runs as sweeps, grids and studies, their results files, and time estimates."""
