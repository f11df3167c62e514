"""Whether a stage succeeded well enough for the run to go on."""

from data_prep.errors import UserError
from jobs.engine.marker import Marker
from jobs.engine.stage import Stage


class RunFailed(RuntimeError):
    """Items failed for a reason that is not the user's data or settings."""


def check_stage(stage: Stage) -> None:
    """Let the run go on unless too many items of the stage ended without success.

    Raises:
        RunFailed: they are too many.
    """
    unsuccessful, count = _unsuccessful(stage), len(stage.items())
    if len(unsuccessful) > stage.allowed_failures(count):
        raise RunFailed(
            f"{len(unsuccessful)} of {count} items of {stage.name} did not succeed, which is too many to go on"
        )


def list_failures(stage: Stage) -> list[str]:
    """Return a line for each failed item of a stage that succeeded well enough.

    Raises:
        UserError: too many items ended without success, some of them refused.
        RunFailed: too many items ended without success, none of them refused.
    """
    unsuccessful, count = _unsuccessful(stage), len(stage.items())
    failures = [
        f"{stage.name}/{item}: {marker.reason}"
        for item, marker in unsuccessful.items()
        if marker and marker.state == "failed"
    ]
    if len(unsuccessful) > stage.allowed_failures(count):
        _refuse(stage, unsuccessful, count)
        raise RunFailed(failures[0] if failures else f"{stage.name}/{next(iter(unsuccessful))} was not run")
    return failures


def _refuse(stage: Stage, unsuccessful: dict[str, Marker | None], count: int) -> None:
    """Raise a UserError if some of the items were refused."""
    refused = [
        f"{stage.location(item)}: {marker.reason}"
        for item, marker in unsuccessful.items()
        if marker and marker.state == "refused"
    ]
    if refused and len(unsuccessful) == 1:
        raise UserError(refused[0])
    if refused:
        raise UserError(f"{len(unsuccessful)} of {count} items of {stage.name} were turned away, first {refused[0]}")


def _unsuccessful(stage: Stage) -> dict[str, Marker | None]:
    markers = {item: stage.markers.read(item) for item in stage.items()}
    return {item: marker for item, marker in markers.items() if marker is None or marker.state != "done"}
