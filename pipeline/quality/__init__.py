"""Measures of a denoised image against the full dose, and statistics that say how certain they are."""
