"""What a job of Slurm does before its work: it waits until it sees what the jobs before it wrote."""

import threading
import time
from pathlib import Path

import pytest

from jobs.engine import in_job
from jobs.engine.graph import Graph
from jobs.engine.marker import Marker
from jobs.engine.run_folder import RunFolder
from jobs.stages.graph import graph_of
from pipeline.settings.run import RunSettings


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    data = {"sources": [{"kind": "nifti", "path": tmp_path}]}
    settings = RunSettings.model_validate({"name": "t", "runs": tmp_path, "data": data, "study": {"slices": [16]}})
    folder = RunFolder.of(settings)
    folder.record()
    return graph_of(folder)


def test_a_marker_that_a_shared_file_system_shows_late_is_waited_for(graph: Graph) -> None:
    """NFS may show a folder as it was for up to a minute."""
    done = Marker("done", {}, time.time(), 1.0, "", {})
    late = threading.Timer(2.0, graph.stages["split"].markers.write, ("split", done))
    late.start()
    began = time.monotonic()
    in_job._await_inputs(graph, graph.stages["train"], ["2d"])
    assert time.monotonic() - began >= 1.9
    assert graph.marker(("split", "split")) == done


def test_a_marker_that_never_comes_is_the_mark_of_a_job_that_died(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_job, "_VISIBLE_SECONDS", 1.0)
    with pytest.raises(RuntimeError, match="1 of 1 items of split did not succeed"):
        in_job._await_inputs(graph, graph.stages["train"], ["2d"])
    marker = graph.marker(("split", "split"))
    assert marker is not None
    assert marker.state == "failed"
    assert marker.reason == "its job ended before it was done; see the logs"
