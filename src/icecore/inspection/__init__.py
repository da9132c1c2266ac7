"""Inspect bodies: what each layer does with the tokens of a task, as numbers, plain words and a plot."""
