"""Before trials run: the attribution maps that methods of a sweep read, computed on Ray."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.sweeps import cluster
from orchestrator.sweeps.deaths import how_it_died
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.progress import Pace, Progress
from orchestrator.sweeps.surroundings import thread_counts
from search_spaces.pairs import PAIR
from trainables.attribution.map_settings import FEW, MapSettings
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.errors import DeviceError, OutOfMemoryError, TrainingFailed, UserError
from trainables.failures import meaning
from trainables.methods.registry import config_of, parse_method, term_class

MAX_ATTEMPTS = 3
SHARE = ("train_fraction", "val_fraction", "split_seed", "resample")
"""Settings that decide which images a trial trains on, beside its seed."""


@dataclass(frozen=True)
class Trained:
    """The images that some trials train on.

    Attributes:
        config: of one of them.
    """

    config: TrialConfig

    def __call__(self, dataset: Dataset) -> Dataset:
        """Those of a data set whose maps the trials read."""
        from trainables.training.shown_images import of_few, split_images

        return of_few(dataset, split_images(self.config, dataset)[0])


class Maps(NamedTuple):
    """Maps that trials read.

    Attributes:
        teacher: the name of its file.
        settings: of the maps.
        images: of which they are.
    """

    teacher: str
    settings: MapSettings
    images: Trained


def wanted_maps(plan: Plan) -> list[Maps]:
    """What maps a sweep's trials read, each once.

    Of a setting of maps that is searched over a range its ends count: maps between them are
    computed by the first trial that reads them. So are those of trials of few images (`FEW`) of
    which each seed has its own.
    """
    found: dict[Any, Maps] = {}
    for config in _kinds(plan):
        teacher = plan.teachers.of(config)
        few = config.train_fraction * (1 - config.val_fraction) < FEW
        if teacher is None or (few and config.resample):
            continue
        for name in _readers(config.method):
            settings = MapSettings.of(config_of(name, config.terms))
            share = tuple(getattr(config, key) for key in SHARE) if few else ()
            maps = Maps(teacher.file, settings, Trained(config))
            found.setdefault((teacher.file, settings, share), maps)
    return [*found.values()]


def check_maps(plan: Plan) -> None:
    """Refuses a sweep whose maps would find no room, before its teachers are trained.

    Raises:
        UserError: with how much is missing.
    """
    if not (wanted := wanted_maps(plan)):
        return
    from trainables.teachers.maps import check_map_room, map_key

    for file, settings, images in wanted:
        card = plan.cards.get(file)
        of = images(plan.dataset)
        check_map_room(map_key(card.fingerprint if card else file, of, settings))


def with_maps(plan: Plan, progress: Progress) -> None:
    """Computes what is missing of the maps that trials read, on one node of the cluster.

    Trials on another node compute theirs when the first of them asks.

    Args:
        plan: its teachers are there.
        progress: is told after every part.

    Raises:
        UserError, TrainingFailed: some cannot be computed.
    """
    if not (wanted := wanted_maps(plan)):
        return
    from trainables.teachers.maps import map_key, maps_are_there

    for maps in wanted:
        fingerprint = plan.cards[maps.teacher].fingerprint
        key = map_key(fingerprint, maps.images(plan.dataset), maps.settings)
        if not maps_are_there(key):
            _compute(plan, progress, fingerprint, maps)


def _kinds(plan: Plan) -> Iterator[TrialConfig]:
    """Configs with every combination of what decides which maps are read."""
    study = plan.study
    names = {PAIR, "method", "teacher", *SHARE, *_all_readers(plan)}
    return (study.config(drawn) for drawn in study.space.corners(names))


def _all_readers(plan: Plan) -> set[str]:
    """Names of all parts of the study's methods that read maps."""
    configs = (config for _, config in plan.corners())
    return {name for config in configs for name in _readers(config.method)}


def _readers(method: str) -> list[str]:
    return [n for n in parse_method(method) if getattr(term_class(n), "reads_maps", False)]


def _compute(plan: Plan, progress: Progress, fingerprint: str, maps: Maps) -> None:
    """In an actor with a node's CPUs, or a GPU; a new one where it dies, which goes on."""
    import ray

    for attempt in range(1, MAX_ATTEMPTS + 1):
        worker, pace = _worker(plan, fingerprint, maps), Pace()
        try:
            while (moment := ray.get(worker.advance.remote())) is not None:
                counted = moment.done is not None
                left = pace.left(moment.share) if counted else ""
                progress.stage(moment.text + left, passing=counted)
            return
        except ray.exceptions.RayTaskError as error:
            meant = meaning(error.cause)
            if isinstance(meant, TrainingFailed | UserError) and not isinstance(meant, DeviceError):
                raise meant from error
            if not isinstance(meant, DeviceError | OutOfMemoryError):
                raise
            why, cause = str(meant), error
        except ray.exceptions.RayError as error:
            if not (how := how_it_died(error)):
                raise
            why, cause = f"attribution maps: {how}", error
        finally:
            ray.kill(worker)
        if attempt == MAX_ATTEMPTS:
            raise TrainingFailed(f"{why}; tried {MAX_ATTEMPTS} times") from cause
        progress.stage(f"{why}; trying again")


def _worker(plan: Plan, fingerprint: str, maps: Maps) -> Any:
    import ray
    import torch

    from trainables.teachers.maps import MapComputing

    cpus = 1 if plan.gpus else max(1, int(cluster.largest_node("CPU")))
    room = ray.remote(
        num_cpus=cpus,
        num_gpus=1.0 if plan.gpus else 0,
        runtime_env={"env_vars": thread_counts(cpus)},
    )
    size = plan.study.fixed.get("image_size")
    return room(MapComputing).remote(
        *(plan.results, maps.teacher, fingerprint),
        plan.study.dataset,
        plan.data_dir,
        int(size) if size else None,
        maps.settings,
        torch.device("cuda" if plan.gpus else "cpu"),
        maps.images,
    )
