"""Every task by its name, known without torch; a data set names its own (`Dataset.task`).

Other packages add tasks under the entry-point group ``kdsweep.tasks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.registry import Registry

if TYPE_CHECKING:
    from trainables.tasks.task import Task

TASKS: Registry[Task] = Registry(
    "task",
    "kdsweep.tasks",
    {
        "single-label": "trainables.tasks.single_label:SINGLE_LABEL",
        "multi-label": "trainables.tasks.multi_label:MULTI_LABEL",
    },
)
