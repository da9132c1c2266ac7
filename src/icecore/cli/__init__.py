"""The command line: one module for each group of commands, on top of the other folders."""
