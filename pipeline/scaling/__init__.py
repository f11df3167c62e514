"""How training scales with the number of ranks."""
