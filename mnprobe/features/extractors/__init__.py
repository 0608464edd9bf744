"""Extractors: frozen models that turn episodes into tokens, layer by layer."""
