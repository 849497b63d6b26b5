"""The task objects: what binds a student's models, a loss and a way to encode together."""

import pkgutil

from kit.assignment import TASKS
from kit.settings import TaskSettings
from kit.tasks.base import Task, TaskError

__all__ = ["Task", "TaskError", "make_task", "task_class"]


def task_class(settings: TaskSettings) -> type[Task]:
    """The class of the task object that these settings are for."""
    return pkgutil.resolve_name(settings.task_class)


def make_task(submission, settings: TaskSettings, num_examples: int = 0, device="cpu") -> Task:
    """Build the task object from the student's classes and functions.

    Args:
        submission: the module (or any object) with the student's names.
        settings: the task's; its class says which task it is.
        num_examples: size of the training split, for the cache; 0 for inference.
        device: where the model goes.

    Raises:
        TaskError: a class is missing.
    """
    part = TASKS[settings.task]
    if missing := [name for name in part.classes if not hasattr(submission, name)]:
        raise TaskError(f"submission.py has no {' and no '.join(missing)} (part {part.number})")
    return task_class(settings).make(submission, settings, num_examples, device)
