"""What a student reads when submission.py is unfinished, or stops with an error."""

import ast
import contextlib
import inspect
import re
import sys
import traceback
from pathlib import Path

from kit.assignment import TASKS
from kit.files import ROOT


def missing_todos(submission, task: str) -> list[str]:
    """The TODOs of a task whose functions still raise NotImplementedError, in their order.

    Read off the source text, so that all of them are found and not only the first that stops.
    """
    part = TASKS[task]
    numbers = part.todos
    if hasattr(getattr(submission, part.classes[0]), "loss"):
        # Its own loss takes the place of what another part has for it.
        numbers = tuple(number for number in numbers if number.startswith(part.number))
    found = []
    for outer in ast.parse(inspect.getsource(submission)).body:
        prefix = f"{outer.name}." if isinstance(outer, ast.ClassDef) else ""
        for function in outer.body if prefix else [outer]:
            if not isinstance(function, ast.FunctionDef):
                continue
            code = ast.unparse(function)  # without comments
            for todo in re.findall(r"raise NotImplementedError\(.TODO (\d+(?:\.\d+)*)", code):
                if f"{todo}.".startswith(tuple(f"{number}." for number in numbers)):
                    order = [int(n) for n in todo.split(".")]
                    found.append((order, f"TODO {todo} ({prefix}{function.name})"))
    return list(dict.fromkeys(text for _, text in sorted(found, key=lambda pair: pair[0])))


def todo_message(error: NotImplementedError, submission, task: str | None = None) -> str:
    """One line for a student whose unfinished `submission.py` raised `error`.

    Lists all that the task still needs; without a task, only where it stopped. An error that
    names no TODO is none of ours and is explained like any other.
    """
    if not str(error).startswith("TODO "):
        return explain_error(error)
    missing = missing_todos(submission, task) if task else []
    if not missing:
        return f"submission.py is not complete; it stopped at {error}"
    listed = ", ".join(missing)
    return f"submission.py is not complete for --task {task}; still to do, in this order: {listed}"


def explain_error(error: Exception, known: tuple[type[Exception], ...] = ()) -> str:
    """What an error says, and the line that it comes from.

    That is the last line of submission.py on the way to the error. Where the way does not lead
    through it, an error of a class in `known` has a message that says enough; of any other the
    last line of the kit is shown.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and Path(error.filename or "").name == "submission.py":
        code = (error.text or "").strip()
        return f"{text}\n  submission.py, line {error.lineno}:\n    {code}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).name == "submission.py"]
    kit = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    if own:
        return f"{text}\n{_place(own[-1])}"
    if isinstance(error, known):
        return str(error)
    if not kit:
        return text
    hint = "What submission.py returned, or what a file holds, does not fit here."
    return f"{text}\n{_place(kit[-1])}\n{hint}"


@contextlib.contextmanager
def import_explained(main: bool):
    """Around `import submission` in a program: an error there is explained, not traced back.

    main: whether the module is run as a program; else the error goes on to who imports it.
    """
    try:
        yield
    except Exception as error:
        if not main:
            raise
        sys.exit(f"error: submission.py cannot be imported. {explain_error(error)}")


def _place(frame: traceback.FrameSummary) -> str:
    name = Path(frame.filename)
    if name.is_relative_to(ROOT):
        name = name.relative_to(ROOT)
    elif name.name == "submission.py":
        name = Path(name.name)
    return f"  {name}, line {frame.lineno}, in {frame.name}:\n    {frame.line}"
