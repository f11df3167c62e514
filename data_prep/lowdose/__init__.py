"""Simulated low dose: the noise that fewer photons would give, added to a full-dose image."""
