"""Markers of items that no test runs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobs.engine.graph import Graph
from jobs.engine.marker import Marker
from jobs.engine.outputs import digest_outputs
from jobs.engine.stage import Stage


def mark_done(graph: Graph, stage: str, item: str, result: Mapping[str, Any] = {}, seconds: float = 1.0) -> None:
    """Record that an item was done with the settings, inputs and outputs that there are now."""
    done = graph.stages[stage]
    _write(done, item, Marker("done", graph.parts(done, item), 1.0, seconds, "", dict(result)))


def mark_split(split: Stage) -> None:
    """Record that the scans were split, without a look for them."""
    _write(split, "split", Marker("done", {}, 1.0, 1.0, "", {}))


def _write(stage: Stage, item: str, marker: Marker) -> None:
    stage.markers.write(item, replace(marker, outputs=digest_outputs(stage, item)))
