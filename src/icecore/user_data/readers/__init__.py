"""Read files and arrays of every supported kind as records."""
