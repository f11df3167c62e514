"""Errors of a training whose text is a sentence for people."""


class TrainingError(RuntimeError):
    """A training that cannot go on, as its loss, gradients or weights are not finite."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""
