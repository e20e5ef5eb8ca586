"""DistillTrainable: the only file of this package that knows Ray."""

import json
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from trainables.columns import TrialRow
from trainables.errors import DeviceError, OutOfMemoryError, TrainingFailed
from trainables.failures import explained
from trainables.job import Job, Run
from trainables.worker import WORKER

CHECKPOINT = "training.pt"


class DistillTrainable(tune.Trainable):
    """One trial as Ray Tune sees it: a step is an epoch.

    The config that Tune hands over is `Job.to_dict`. Actors are reused: data set, teacher and
    measurements stay in the process from one trial to the next.

    Every result holds ``epochs``, the rows of epochs not reported before, ``trial``, a list
    with the row of the ``trials`` table as it would be if the trial ended now, ``notes``, a list
    of what the user should know, and ``epoch``, ``val_acc``, ``val_score`` and ``train_loss``
    for schedulers. A trial that a scheduler ends has the status ``stopped`` there.

    An exception in a trial ends the trial, not the actor: its row says ``failed`` and why. Only
    where the device is lost or the memory full the actor raises, so that Tune ends its process:
    in it every later trial would fail as well, and the memory goes back to the neighbours.

    Durability does not rest on Tune's checkpoints: `Run` keeps the trial's progress beside
    the results, and whoever starts the trial again, this driver or the next, goes on from it.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.device = _device(config["cpus"])
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(new_config)
        return True

    @explained
    def _start(self, config: dict[str, Any]) -> None:
        self.job = Job(**config)
        _limit_memory(self.device, self.job.gpus)
        self.reported = 0
        self.run: Run | None = None

    def step(self) -> dict[str, Any]:
        notes = []
        try:
            # Built here, not in setup: an exception in setup would cost the actor.
            if self.run is None:
                self.run = Run(self.job, self.device)
                notes = [self.run.note] if self.run.note else []
            if why := self.run.refusal():
                row = self.run.row("infeasible", why)
            else:
                if not self.run.finished:
                    self.run.run_epoch()
                row = self.run.row("completed" if self.run.finished else "stopped")
        except (DeviceError, OutOfMemoryError) as error:
            traceback.print_exception(error)
            self.run = None
            if isinstance(error, OutOfMemoryError):
                WORKER.release()  # for the neighbours, until this process has ended
            raise
        except Exception as error:
            row = self._failure(error)
        epochs = self.run.epoch_rows(self.reported) if self.run else []
        self.reported += len(epochs)
        if row["status"] != "stopped":
            self.run = None  # its memory is free before the next trial is built
        return {
            "epoch": row.get("epochs", 0),
            "val_acc": row.get("val_acc"),
            "val_score": row.get("val_score"),
            "train_loss": row.get("train_loss"),
            "epochs": epochs,
            "trial": [row],  # in a list: Tune flattens dicts
            "notes": notes,
            "done": row["status"] != "stopped",
        }

    def _failure(self, error: Exception) -> dict[str, Any]:
        """The row of a trial that raised."""
        if not isinstance(error, TrainingFailed):
            traceback.print_exception(error)
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if self.run is not None:
            return self.run.row("failed", text)
        # Read as it is: that it cannot be understood here may be what went wrong.
        config = self.job.config
        row = TrialRow(
            sweep=self.job.sweep,
            trial_id=self.job.trial_id,
            attempt=self.job.attempt,
            stage=config.get("stage"),
            method=config.get("method"),
            dataset=config.get("dataset"),
            seed=config.get("seed"),
            view_seed=config.get("view_seed"),
            status="failed",
            error=text,
            config=json.dumps(config, sort_keys=True, separators=(",", ":")),
        )
        return row.known()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        bundle = {"CPU": config["cpus"]} | ({"GPU": config["gpus"]} if config["gpus"] else {})
        return tune.PlacementGroupFactory([bundle])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.run is None:
            self.run = Run(self.job, self.device)
        Path(checkpoint_dir, CHECKPOINT).write_bytes(self.run.checkpoint())

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.run = Run(self.job, self.device)
        self.run.restore(Path(checkpoint_dir, CHECKPOINT).read_bytes())

    def cleanup(self) -> None:
        self.run = None
        WORKER.release()


def _device(cpus: float) -> torch.device:
    """The GPU that Ray assigned to this actor, or the CPU with its share of threads.

    The plan says how many, and no variable of the environment: the number decides the last bits
    of a sum, which precision is faster, and whether neighbours get on.
    """
    torch.set_num_threads(max(1, int(cpus)))
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _limit_memory(device: torch.device, share: float) -> None:
    """Lets a trial that outgrows its share of a GPU run out of memory, not its neighbours."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(float(share), 1.0) or 1.0, device)
