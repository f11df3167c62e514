"""The stages of a run, in order."""

from pathlib import Path

from jobs.engine.graph import Graph
from jobs.engine.run_folder import RunFolder
from jobs.stages.evaluate import Evaluate
from jobs.stages.export import Export
from jobs.stages.prepare import Prepare
from jobs.stages.report import WriteReport
from jobs.stages.search import searches_of
from jobs.stages.search_summary import SummariseSearch
from jobs.stages.split import SplitScans
from jobs.stages.train import Study, TrainDonors, Transfer


def graph_of(folder: RunFolder) -> Graph:
    """Build the whole graph: prepare, split, train, transfer, study, evaluate, export, report."""
    prepare, donors = Prepare(folder), TrainDonors(folder)
    study = Study(donors)
    trained = [SplitScans(prepare), donors, Transfer(donors, study), study]
    evaluate = Evaluate(trained)
    stages = [prepare, *trained, evaluate, Export(evaluate)]
    return Graph([*stages, WriteReport([donors, study], evaluate, stages)])


def open_graph(root: Path) -> Graph:
    """Open the graph of the run in a folder, in any process that works on it; see :meth:`RunFolder.secure`.

    Raises:
        UserError: there is no run in ``root``, or someone else can change it.
    """
    return graph_of(_opened(root))


def _opened(root: Path) -> RunFolder:
    folder = RunFolder.opened(root)
    folder.secure()
    return folder


def search_of(folder: RunFolder) -> Graph:
    """Build the graph of a search: preparation, donors and transfers with which trials start, rungs, summary."""
    prepare, donors, searches = Prepare(folder), TrainDonors(folder), searches_of(folder)
    transfer = Transfer(donors, Study(donors))
    sources = {item for search in searches[:1] for trial in search.items() for _, item in search.inputs(trial)}
    transfer.cells = {item: cell for item, cell in transfer.cells.items() if item in sources}
    counterparts = {item for name in transfer.items() for _, item in transfer.inputs(name)}
    donors.cells = {item: cell for item, cell in donors.cells.items() if item in counterparts}
    return Graph([prepare, SplitScans(prepare), donors, transfer, *searches, SummariseSearch(searches)])


def open_search(root: Path) -> Graph:
    """Open the graph of the search in a run folder, as :func:`open_graph` does that of the run."""
    return search_of(_opened(root))


def started_of(folder: RunFolder) -> Graph:
    """Build the whole graph, with the search where it was started: for looks at what became of all items."""
    searched, stages = search_of(folder).stages if folder.has_search else {}, graph_of(folder).stages
    prepare = stages[Prepare.name]
    assert isinstance(prepare, Prepare)
    prepare.find_or_recall_items()
    return Graph((searched | stages).values())


def evaluation_of(folder: RunFolder) -> Graph:
    """Build the graph without the report."""
    stages = graph_of(folder).stages.values()
    return Graph(stage for stage in stages if not isinstance(stage, WriteReport))


def preparation_of(folder: RunFolder) -> Graph:
    """Build the graph of prepare and split alone, for which scans that cannot be split are good enough."""
    prepare = Prepare(folder)
    return Graph([prepare, SplitScans(prepare, is_needed=False)])
