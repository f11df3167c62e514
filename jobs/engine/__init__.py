"""Run a graph of stages: decide, launch, follow. Knows no stage."""
