"""The stages of a run, and the graph that they make."""
