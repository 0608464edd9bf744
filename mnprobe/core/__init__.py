"""What every room stands on: errors, whole-file writes, provenance, the registry, progress."""
