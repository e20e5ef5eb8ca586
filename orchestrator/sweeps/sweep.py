"""A sweep from its study to its last row: run, resume, confirm."""

import logging
import os
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.results.record import read_record
from orchestrator.results.store import Store
from orchestrator.sweeps import cluster
from orchestrator.sweeps.book import Book
from orchestrator.sweeps.checks import check_names, check_search, scored_by
from orchestrator.sweeps.ending import Ending
from orchestrator.sweeps.journal import Journal
from orchestrator.sweeps.ledger import is_finished, known
from orchestrator.sweeps.map_stage import with_maps
from orchestrator.sweeps.names import check_free, free_name
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.notes import (
    VERSION,
    check_data,
    check_teachers,
    note_teachers,
    write_study,
)
from orchestrator.sweeps.packing import packed_share
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.processes import watched
from orchestrator.sweeps.progress import Progress
from orchestrator.sweeps.proposal import ListSource, Source
from orchestrator.sweeps.source import OptunaSource
from orchestrator.sweeps.teacher_stage import with_teachers
from search_spaces.spec import Study
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.files import open_folder

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Pause before results that could not be written are tried again."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how a sweep runs.

    Attributes:
        results: folder or URI.
        data_dir: as ``--data``; None: ``KDSWEEP_DATA``.
        address: of a Ray cluster; None for one of its own.
        max_concurrent: trials at once; None for as many as there is room for.
        gpus_per_trial: a share, or a whole number; None: by measured memory, where there are any.
        fresh_workers: whether every trial gets a process of its own, which takes seconds.
    """

    results: str
    data_dir: str | None = None
    address: str | None = None
    max_concurrent: int | None = None
    gpus_per_trial: float | None = None
    fresh_workers: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        sweep: its name.
        finished: whether everything asked for was done; False after an interruption.
        completed, failed: trials of this run.
        refused: those that were not trained, for what their students cost.
    """

    sweep: str
    finished: bool
    completed: int
    failed: int
    refused: int = 0


@dataclass(frozen=True)
class Session:
    """A sweep with Ray at hand: its plan knows its share of a GPU."""

    plan: Plan
    options: Options
    progress: Progress
    store: Store
    ending: Ending


def run(study: Study, options: Options, name: str | None = None) -> Outcome:
    """Starts a new sweep.

    Raises:
        UserError: whatever the user can mend, by name.
    """
    plan = prepared(study, options, name)
    open_folder(plan.results).check_writable()
    with ExitStack() as held:

        def begin() -> Source:
            held.enter_context(_locked(plan.results, plan.sweep))
            check_free(plan.results, plan.sweep)  # still
            write_study(plan)
            return _optuna_source(plan)

        return _conduct(plan, options, begin, "search")


def prepared(study: Study, options: Options, name: str | None = None) -> Plan:
    """A new sweep of which everything is checked that can be before it writes or starts anything.

    Raises:
        UserError: whatever the user can mend, by name.
    """
    results = absolute(options.results)
    name = free_name(results, study.name) if name is None else name
    check_free(results, name)
    # Noted with the study: workers elsewhere and a later resume have other environments.
    data_dir = options.data_dir or os.environ.get("KDSWEEP_DATA")
    data_dir = os.path.abspath(os.path.expanduser(data_dir)) if data_dir else None
    plan = Plan(study, name, results, data_dir)
    check_names(plan)
    check_search(study, lambda: plan.dataset)
    plan = replace(plan, study=scored_by(plan.task.headline, study)).with_teachers()
    check_networks(plan)
    return plan


def resume(sweep: str, options: Options) -> Outcome:
    """Goes on with an interrupted sweep; without effect on one that is finished.

    Raises:
        UserError: no such sweep, it is running, its data has changed, or an older version left
            it unfinished.
    """
    plan = reopen(sweep, options)
    with _locked(plan.results, sweep):
        store = Store(plan.results, sweep)
        if VERSION not in read_record(store).notes:
            if is_finished(store, plan):
                return Outcome(sweep, True, 0, 0)
            raise UserError(
                f"sweep '{sweep}' was begun by an older version, which alone can go on with it; "
                f"or begin a new one by `kdsweep run {store.folder}/study.yaml --name NAME`"
            )
        source = _optuna_source(plan)
        if source.exhausted:
            source.keep()
            return Outcome(sweep, True, 0, 0)
        return _conduct(plan, options, lambda: source, "search")


def confirm(sweep: str, groups: list[list[TrialConfig]], options: Options) -> Outcome:
    """Trains chosen configs again under several seeds; continues where it was interrupted.

    Args:
        sweep: rows go to the same sweep, with stage ``confirm``.
        groups: the configs, each with its repeats.
        options: as for `run`.
    """
    plan = reopen(sweep, options)
    with _locked(plan.results, sweep):
        return _conduct(plan, options, lambda: ListSource(groups), "confirm")


def reopen(sweep: str, options: Options) -> Plan:
    """The plan of a sweep that exists, from its ``study.yaml``.

    Raises:
        UserError: no such sweep, or its study or its data is not what it was.
    """
    results = absolute(options.results)
    record = read_record(Store(results, sweep))
    notes = record.notes
    data_dir = os.path.abspath(options.data_dir) if options.data_dir else notes["data_dir"]
    plan = Plan(record.study, sweep, results, data_dir, began_as=record.sweep)
    # Whatever else a sweep must find as it was is compared with its notes here.
    check_data(plan, notes)
    plan = plan.with_teachers()
    check_teachers(plan, notes)
    return plan


def _optuna_source(plan: Plan) -> OptunaSource:
    store = Store(plan.results, plan.sweep)
    return OptunaSource(plan.study, Journal(store.folder), plan.origin, known(store, plan))


def _conduct(plan: Plan, options: Options, begin: Callable[[], Source], stage: str) -> Outcome:
    """Ray, the teachers that are missing, then all trials of a source.

    Args:
        plan: of the sweep.
        options: as for `run`.
        begin: what makes it a sweep that can be resumed; called once Ray is there.
        stage: of the trials.
    """
    store = Store(plan.results, plan.sweep)
    begun: list[Source] = []
    try:
        with Progress(plan.sweep) as progress, Ending(plan.sweep) as ending:

            def start() -> Source:
                if not begun:
                    with ending.shielded():
                        begun.append(begin())
                return begun[0]

            # A sweep that is interrupted while Ray starts can be resumed, too.
            ending.keeps(store.flush, lambda: start().keep(), progress.close)
            progress.stage("starting Ray")
            with cluster.connected(options.address):
                ending.listen()  # Ray has set a handler of its own
                with watched(ending.end):
                    shared = replace(plan, gpus=cluster.gpu_share(options.gpus_per_trial))
                    session = Session(shared, options, progress, store, ending)
                    return _train(session, start(), stage)
    except (KeyboardInterrupt, SystemExit):
        log.debug("interrupted", exc_info=True)
        return Outcome(plan.sweep, False, 0, 0)


def _train(session: Session, source: Source, stage: str) -> Outcome:
    """The teachers that are missing, then all trials of a source.

    Whatever ends them early, rows are on disk and `kdsweep resume` is named before Ray ends.
    """
    progress, options, ending = session.progress, session.options, session.ending
    try:
        for note in session.plan.notes:
            progress.stage(note)
        plan = with_teachers(session.plan, progress)
        note_teachers(plan)
        for remark in plan.remarks:
            progress.stage(remark)
        with_maps(plan, progress)
        if plan.gpus and options.gpus_per_trial is None:
            progress.stage("measuring a trial's GPU memory")
            plan = replace(plan, gpus=packed_share(plan))
        # Imports Ray, which reads its environment at that moment.
        from orchestrator.sweeps.searcher import StudySearcher
        from orchestrator.sweeps.tuning import tune_trials

        book = Book(source, plan, session.store, progress, stage, lambda: time.sleep(RETRY_SECONDS))
        progress.began(book.booked, source.total, replaces=source.replaces)
        # One more than there is room for: the next trial waits for an actor to reuse.
        room = cluster.slots(plan.cpus, plan.gpus) + 1
        tune_trials(
            StudySearcher(book),
            session.plan.sweep,
            at_once=options.max_concurrent or room,
            reuse_actors=not options.fresh_workers,
            check=ending.check,
        )
        session.store.flush()
        source.keep()
        if not book.finished:  # Tune has answered a signal by itself
            ending.leave()
        else:
            _compact(session.store)
    except KeyboardInterrupt:
        ending.leave()
        raise
    except UserError:
        session.store.flush()
        raise
    except Exception as error:
        # Tune puts the whole traceback into the text of an error of its own.
        cause = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        cause = textwrap.shorten(cause, 150, placeholder=" ...")
        ending.leave(f"{session.plan.sweep} ended by an error ({cause})")
        raise
    return Outcome(plan.sweep, book.finished, progress.done, progress.failed, progress.infeasible)


def _compact(store: Store) -> None:
    try:
        store.compact()
    except OSError as error:
        log.warning("%s could not be compacted: %s; its rows are safe", store.folder, error)


@contextmanager
def _locked(results: str, sweep: str) -> Iterator[None]:
    """Keeps a second driver away from the sweep; the system releases it when this one dies."""
    folder = open_folder(results) / sweep
    if not folder.is_local:
        yield
        return
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(folder.path) / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"sweep '{sweep}' is being run by another process") from error


def absolute(results: str) -> str:
    """A local path made absolute, since workers run elsewhere; a URI as it is."""
    return results if "://" in results else os.path.abspath(os.path.expanduser(results))
