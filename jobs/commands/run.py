"""Commands that bring a run up to date: ``run`` (also ``study``), ``prepare``, ``evaluate`` and ``report``."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import typer

from data_prep.errors import UserError
from data_prep.files import held, is_locked, remove_leftovers
from data_prep.ledger import Ledger
from data_prep.log import describe_count, logger
from data_prep.settings_file import load_settings
from jobs.commands.options import LOCAL, Config, DryRun, On, Overrides, Run
from jobs.engine.decision import Decision
from jobs.engine.graph import Graph, OpenGraph
from jobs.engine.outcome import RunFailed
from jobs.engine.run_folder import LOCK, RunFolder
from jobs.engine.stage import Stage
from jobs.engine.targets import check_targets
from pipeline.report.files import QUALITY_PATTERNS, REPORT_PATTERNS, SEARCH_PATTERNS
from pipeline.settings.run import RunSettings
from slurm.commands import SlurmError
from slurm.profile import Profile, load_profile

if TYPE_CHECKING:
    from jobs.engine.submissions import Submission


def run(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run what is missing or changed, from scans to report."""
    from jobs.stages.graph import graph_of, open_graph

    folder = RunFolder.of(load_settings(config, RunSettings, overrides))
    with updated(folder, graph_of(folder), open_graph, on, dry_run) as ran_here:
        if ran_here:
            _print_summary(folder)
            _warn_of_noise(folder)


def prepare(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Prepare the scans, and split them if they can be split; no more: pairs, manifest.csv and contact sheets."""
    from jobs.stages.graph import open_graph, preparation_of
    from jobs.stages.split import count_states

    folder = RunFolder.of(load_settings(config, RunSettings, overrides))
    with updated(folder, preparation_of(folder), open_graph, on, dry_run) as ran_here:
        if ran_here:
            for dataset, state, count in count_states(folder.data):
                typer.echo(f"{dataset}: {count} {state}")
            typer.echo(f"manifest: {folder.data / 'manifest.csv'}, contact sheets: {folder.data / 'contact'}")
            _warn_of_noise(folder)


def evaluate(config: Config, on: On = LOCAL, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train what is missing and judge it, no more: tables and figures of quality."""
    from jobs.stages.evaluate import Evaluate
    from jobs.stages.graph import evaluation_of, open_graph

    folder = RunFolder.of(load_settings(config, RunSettings, overrides))
    graph = evaluation_of(folder)
    with updated(folder, graph, open_graph, on, dry_run) as ran_here:
        if ran_here:
            stage = graph.stages["evaluate"]
            assert isinstance(stage, Evaluate)
            _write_quality(folder, stage.judged_items())


def _write_quality(folder: RunFolder, judged: Sequence[str]) -> None:
    from pipeline.report.quality import quality_lines, write_quality

    remove_leftovers(folder.quality, ".*")
    with Ledger(folder.quality).recording(QUALITY_PATTERNS):
        tables = write_quality(folder.root, judged, folder.quality, folder.settings.report.formats)
    typer.echo(quality_lines(tables))
    typer.echo(f"tables and figures: {folder.quality}")


def report(folder: Run) -> None:
    """Make the report again, and the page of a search, of what the run folder holds and of nothing else."""
    from jobs.engine.display import Display
    from jobs.engine.launch import LocalLauncher
    from jobs.engine.outcome import list_failures
    from jobs.engine.run import run_stage
    from jobs.stages.graph import graph_of, open_graph, open_search, search_of

    run_folder = RunFolder.opened(folder)
    check_free(run_folder)
    _check(run_folder, searches=run_folder.has_search)
    stages = {graph_of(run_folder).stages["report"]: open_graph}
    if run_folder.has_search:
        stages[search_of(run_folder).stages["search-summary"]] = open_search
    with locked(run_folder), Display() as display:
        for stage, opens in stages.items():
            for item in stage.items():
                stage.markers.remove(item)
            run_stage(stage, stage.items(), LocalLauncher(opens, stage.modules), display)
    for stage in stages:
        list_failures(stage)
    _print_summary(run_folder)


def _warn_of_noise(folder: RunFolder) -> None:
    from jobs.stages.split import describe_noise

    if sentence := describe_noise(folder.data):
        logger.warning(sentence)


def _print_summary(folder: RunFolder) -> None:
    typer.echo((folder.report / "summary.txt").read_text("utf-8"))
    typer.echo(f"report: {folder.report / 'index.html'}")


@contextmanager
def updated(folder: RunFolder, graph: Graph, open_graph: OpenGraph, on: str, dry_run: bool) -> Iterator[bool]:
    """Run the graph here or put it in Slurm's queue; with ``dry_run`` only print what would run.

    ``open_graph``: opens it in other processes.

    Yields: whether it ran here, to its end; then its results are shown first.

    Raises:
        RunFailed: some items failed, though not too many.
    """
    failures = _update(folder, graph, open_graph, on, dry_run)
    yield failures is not None
    if failures:
        count = describe_count(len(failures), "item")
        raise RunFailed(f"{count} failed, first {failures[0]}; run the same command to try them again")


def _update(folder: RunFolder, graph: Graph, open_graph: OpenGraph, on: str, dry_run: bool) -> list[str] | None:
    """Return a line for each item that failed; None if nothing ran here."""
    if not dry_run:
        folder.secure()
        check_free(folder)
    _check(folder, searches="search-summary" in graph.stages, adopts=not dry_run)
    profile = None if on == LOCAL else load_profile(on)
    if profile and profile.executor == "slurm" and not dry_run:
        _enqueue(folder, graph, open_graph, profile)
        return None
    if not dry_run:
        check_queue(folder)
    find_items(graph.stages.values())
    if dry_run:
        _print_decisions(graph)
        return None
    return run_here(folder, graph, open_graph, profile)


def find_items(stages: Iterable[Stage]) -> None:
    """Search for the items of stages, and check what they need, with progress for people."""
    from jobs.engine.display import looking

    with looking("looking through the sources") as progress:
        for stage in stages:
            stage.find_items(progress)


def _print_decisions(graph: Graph) -> None:
    for decision in graph.decide_all():
        typer.echo(f"{'run' if decision.run else 'keep':5}{'/'.join(decision.ref)}: {decision.reason}")


def run_here(folder: RunFolder, graph: Graph, open_graph: OpenGraph, profile: Profile | None) -> list[str]:
    """Run the graph and follow it to its end; without a profile in processes of this machine.

    Returns: a line for each item that failed.
    """
    from jobs.engine.display import Display
    from jobs.engine.launch import Launcher, LocalLauncher, SubmittedLauncher
    from jobs.engine.run import run_graph

    count, failures = 0, list[str]()
    with locked(folder), Display() as display:
        check_queue(folder)
        decisions = _decide(graph)
        if any(decision.run for decision in decisions):
            check_targets(graph, decisions)
            folder.record()
            launcher: Launcher = (
                SubmittedLauncher(profile, open_graph)
                if profile
                else LocalLauncher(open_graph, _modules(graph, decisions))
            )
            count, failures = run_graph(graph, launcher, display)
        elif not folder.is_recorded():
            folder.record()
    if not count:
        logger.info("nothing to do: every item is complete and unchanged")
    return failures


def _modules(graph: Graph, decisions: Sequence[Decision]) -> list[str]:
    """List the modules of the stages with items to be run."""
    pending = {decision.ref[0] for decision in decisions if decision.run}
    return [module for name, stage in graph.stages.items() if name in pending for module in stage.modules]


def check_queue(folder: RunFolder) -> None:
    """Check that no job of the run is in Slurm's queue, which would do the same items."""
    live = _live_submissions(folder)
    if live:
        jobs = ", ".join(sorted({job for submission in live for job in submission.jobs}, key=int))
        raise UserError(
            f"jobs {jobs} of this run are in Slurm's queue: wait for them (`quarterdose status {folder.root}`), or end "
            f"them first (`quarterdose cancel {folder.root}`)"
        )


def _live_submissions(folder: RunFolder) -> "list[Submission]":
    from jobs.engine.queue import live_submissions
    from jobs.engine.submissions import Submissions

    if not Submissions(folder.root).of_this_folder():
        return []
    try:
        return live_submissions(folder)
    except SlurmError as error:
        raise UserError(
            f"jobs of this run were put in Slurm's queue, and whether they have ended is not known, as {error}: run it "
            f"where Slurm answers; if you know that they have ended, remove {folder.root / 'queue.jsonl'}"
        ) from error


def _decide(graph: Graph) -> list[Decision]:
    """Decide for all items; log why those that are not run are left."""
    decisions = graph.decide_all()
    for decision in decisions:
        if not decision.run:
            logger.debug(f"{'/'.join(decision.ref)}: {decision.reason}")
    return decisions


def _enqueue(folder: RunFolder, graph: Graph, open_graph: OpenGraph, profile: Profile) -> None:
    """Put what is missing or changed in Slurm's queue."""
    from jobs.commands.forecast import check_budget
    from jobs.engine.queue import check_submission, submit_graph

    with locked(folder):
        is_searched = all(stage.is_searched() for stage in graph.stages.values())
        _look_again(folder, graph, is_searched=is_searched)
        check_budget(folder, graph, profile)
        if is_searched:  # else each job checks what it replaces
            check_targets(graph, graph.decide_all())
        live = _live_submissions(folder)
        check_submission(graph, folder, profile, live)
        folder.record()
        submissions = submit_graph(graph, folder, profile, live, open_graph)
    for submission in submissions:
        typer.echo(_describe_submission(submission))
    if not submissions:
        logger.info("nothing to submit: every item is complete and unchanged, or in the queue")
    logger.info(f"follow it with: quarterdose status {folder.root}")


def _describe_submission(submission: "Submission") -> str:
    from jobs.engine.submissions import ALL_ITEMS

    names = ["all that will be found" if item == ALL_ITEMS else item for item in submission.items]
    items = f" ({names[0]})" if len(names) == 1 else ""
    return f"{submission.stage}{items}: job {', '.join(submission.jobs)}, {describe_count(submission.tasks, 'task')}"


def _look_again(folder: RunFolder, graph: Graph, *, is_searched: bool) -> None:
    """Search for items that came since the last search; where there was none, a job looks through the sources."""
    unseen = [source.path for source in folder.settings.data.sources if source.path and not source.path.exists()]
    if is_searched and unseen:
        logger.warning(f"{unseen[0]} is not seen from here: the scans are those of the last look through the sources")
    find_items(stage for stage in graph.stages.values() if not stage.uses_search or (is_searched and not unseen))


def _check(folder: RunFolder, *, searches: bool, adopts: bool = True) -> None:
    """Check before anything is written that nothing is replaced but what the program wrote.

    ``searches``: whether the files of a search are written; else found settings may have been changed by hand.
    """
    patterns = {folder.report: REPORT_PATTERNS, folder.quality: QUALITY_PATTERNS}
    folder.check({**patterns, **({folder.search: SEARCH_PATTERNS} if searches else {})}, adopts=adopts)


def check_free(folder: RunFolder) -> None:
    """Check that no process is at work in the folder, whose files would change while they are looked at."""
    if is_locked(folder.root / LOCK):
        raise UserError(_at_work(folder))


def _at_work(folder: RunFolder) -> str:
    return f"another `quarterdose` is at work in {folder.root}"


def locked(folder: RunFolder) -> AbstractContextManager[None]:
    """Hold the lock of a run folder, for its user alone; refuse at once where another process works there."""
    folder.secure()
    return held(folder.root / LOCK, _at_work(folder))
