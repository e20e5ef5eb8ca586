"""The documented Python call: a sweep's results as DataFrames, or by SQL."""

from orchestrator.results.views import connect, epochs, run_sql, trials

__all__ = ["connect", "epochs", "run_sql", "trials"]
