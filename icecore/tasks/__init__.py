"""Tasks by name. Importing a task module reads no data."""
