"""``make gpu``: tests and benchmarks on a GPU."""
