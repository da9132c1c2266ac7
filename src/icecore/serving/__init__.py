"""Programs over HTTP: many programs and callers share the passes of a few bodies."""
