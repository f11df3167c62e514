"""Simulated low dose: noise of fewer photons, added to a full-dose image."""
