"""The stages of a run, in order."""

from pathlib import Path

from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.stages.evaluate import Evaluate
from jobs.stages.export import Export
from jobs.stages.prepare import Prepare, SplitScans
from jobs.stages.report import WriteReport
from jobs.stages.train import Study, TrainDonors, Transfer


def graph_of(folder: RunFolder) -> Graph:
    """Build the whole graph: prepare, split, train, transfer, study, evaluate, export, report."""
    prepare, donors = Prepare(folder), TrainDonors(folder)
    study = Study(donors)
    evaluate = Evaluate([donors, study])
    stages = [prepare, SplitScans(prepare), donors, Transfer(donors, study), study, evaluate, Export(evaluate)]
    return Graph([*stages, WriteReport([donors, study], evaluate, stages)])


def open_graph(root: Path) -> Graph:
    """Open the graph of the run in a folder, in any process that works on it; see :meth:`RunFolder.secure`.

    Raises:
        UserError: there is no run in ``root``, or someone else can change it.
    """
    folder = RunFolder.opened(root)
    folder.secure()
    return graph_of(folder)


def evaluation_of(folder: RunFolder) -> Graph:
    """Build the graph without the report."""
    stages = graph_of(folder).stages.values()
    return Graph(stage for stage in stages if not isinstance(stage, WriteReport))


def preparation_of(folder: RunFolder) -> Graph:
    """Build the graph of prepare and split alone, for which scans that cannot be split are good enough."""
    prepare = Prepare(folder)
    return Graph([prepare, SplitScans(prepare, is_needed=False)])
