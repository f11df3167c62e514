"""Canonical slices to files: one writer a format."""
