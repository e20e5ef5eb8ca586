"""What each verb of the command line does: a function each, which returns the exit code."""

from orchestrator.commands.caching import cache
from orchestrator.commands.catalogue import (
    compressions,
    datasets,
    explainers,
    methods,
    models,
    optimizers,
    studies,
)
from orchestrator.commands.explaining import explain
from orchestrator.commands.exporting import export
from orchestrator.commands.inspecting import inspect
from orchestrator.commands.reading import front, plot, query, table
from orchestrator.commands.running import confirm, resume, run, trial
from orchestrator.commands.teaching import teacher

__all__ = [
    "cache",
    "compressions",
    "confirm",
    "datasets",
    "explain",
    "explainers",
    "export",
    "front",
    "inspect",
    "methods",
    "models",
    "optimizers",
    "plot",
    "query",
    "resume",
    "run",
    "studies",
    "table",
    "teacher",
    "trial",
]
