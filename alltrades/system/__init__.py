"""The machine below: files, processors, progress, tracking."""
