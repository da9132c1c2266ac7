"""Files of your own data as records."""
