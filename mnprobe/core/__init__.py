"""Foundations: errors, files, provenance, registry, arrays and labels."""
