"""The task objects: what binds a student's models, a loss and a way to encode together."""

import pkgutil

from kit.settings import TaskSettings
from kit.tasks.base import Task

__all__ = ["Task", "make_task"]


def make_task(submission, settings: TaskSettings, num_examples: int = 0, device="cpu") -> Task:
    """Build the task object from the student's classes and functions.

    Args:
        submission: the module (or any object) with the student's names.
        settings: the task's; its class says which task it is.
        num_examples: size of the training split, for the cache; 0 for inference.
        device: where the model goes.
    """
    kind = pkgutil.resolve_name(settings.task_class)
    return kind.make(submission, settings, num_examples, device)
