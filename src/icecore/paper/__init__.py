"""The paper: its tables as values, budgets, published numbers, attention analysis, and the demo."""
