"""What everything else builds on: errors, run configurations, files on disk, devices, and short texts."""
