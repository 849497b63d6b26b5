"""The command line of train.py: the flags are the settings of the task that was named."""

import argparse
from dataclasses import MISSING, dataclass, fields

from kit.settings import (
    NO_SETTINGS,
    RunSettings,
    Settings,
    SettingsError,
    TaskSettings,
    kind_of,
    names_of,
    read_settings_file,
    settings_class,
)

USAGE = "python train.py --task TASK [flags]"


@dataclass(frozen=True)
class Call:
    """What one call of train.py asks for.

    Attributes:
        settings, run: all settings.
        given: those that the command line or --config gave, by name.
        save_dir: the run folder.
        resume, overwrite: what to do with a run that is there.
    """

    settings: TaskSettings
    run: RunSettings
    given: dict
    save_dir: str
    resume: bool
    overwrite: bool


def parse(argv: list[str] | None, tasks: tuple[str, ...]) -> Call:
    """Read the flags; `tasks` are those that submission.py has a place for.

    Ends the program, as argparse does, after --help and where a flag cannot be.
    """
    kind, from_file = named_task(argv, tasks)
    parser = task_parser(kind)
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(explain_unknown(unknown, kind.task, tasks))
    flags = vars(found)
    names = names_of(kind, RunSettings)
    if wrong := [name for name in from_file if name not in {*names, *NO_SETTINGS}]:
        parser.error(f"--config: {kind.task} has no settings {', '.join(wrong)}")
    if flags["resume"] and flags["overwrite"]:
        parser.error("--resume goes on with a run, --overwrite replaces it: give one of them")
    if flags["resume"] and from_file:
        parser.error("--resume takes the settings from the run folder, not from --config")
    given = {name: value for name, value in (from_file | flags).items() if name in names}
    try:
        settings, run = (
            made(**{name: given[name] for name in names_of(made) if name in given})
            for made in (kind, RunSettings)
        )
        settings.check_run(run)
    except SettingsError as error:
        parser.error(str(error))
    save_dir = flags["save_dir"] or f"runs/{kind.run_name()}"
    return Call(settings, run, given, save_dir, flags["resume"], flags["overwrite"])


def named_task(argv: list[str] | None, tasks: tuple[str, ...]) -> tuple[type[TaskSettings], dict]:
    """The settings class of the task that is asked for, and what the file of --config holds."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=USAGE)
    for flag in ("--task", "--config", "--dataset"):
        parser.add_argument(flag)
    named = parser.parse_known_args(argv)[0]
    try:
        from_file = read_settings_file(named.config) if named.config else {}
    except SettingsError as error:
        parser.error(str(error))
    task = named.task or from_file.get("task")
    if named.task is None and task is not None and task not in tasks:
        parser.error(f"--config {named.config}: task must be one of {', '.join(tasks)}")
    if task not in tasks:
        overview(tasks).parse_args(argv)  # says which tasks there are, and ends
    return settings_class(task, named.dataset or from_file.get("dataset")), from_file


def overview(tasks: tuple[str, ...]) -> argparse.ArgumentParser:
    """The parser for a call without a task: it only says which there are."""
    lines = [f"  {task:<14}{settings_class(task).__doc__.splitlines()[0]}" for task in tasks]
    parser = argparse.ArgumentParser(
        usage=USAGE,
        allow_abbrev=False,
        description="Train a task and leave a run folder with checkpoints, log and pictures.",
        epilog="\n".join(
            ["tasks:", *lines, "", f"python train.py --task {tasks[-1]} --help explains its flags."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, choices=tasks, help="what to train")
    parser.add_argument("--config", help="start from the settings in this JSON file")
    return parser


def task_parser(kind: type[TaskSettings]) -> argparse.ArgumentParser:
    """The parser of one task's flags; what is not given is not in the result."""
    parser = argparse.ArgumentParser(
        usage=f"python train.py --task {kind.task} [flags]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        description=kind.__doc__.splitlines()[0],
    )
    group = parser.add_argument_group("the run")
    group.add_argument("--task", help="what to train")
    group.add_argument("--config", help="start from the settings in this JSON file; flags win")
    group.add_argument(
        "--save_dir", default=None, help=f"the run folder (default: runs/{kind.run_name()})"
    )
    for flag, text in (
        ("--resume", "go on from the last completed epoch of the run folder"),
        ("--overwrite", "start over in a folder with a run of other settings"),
    ):
        group.add_argument(flag, action="store_true", default=False, help=text)
    add_flags(group, RunSettings)
    add_flags(parser.add_argument_group(kind.task), kind)
    return parser


def add_flags(group, kind: type[Settings]) -> None:
    """A flag for each field of a settings class, its default in the help text."""
    for line in fields(kind):
        value_type, many, _ = kind_of(line)
        default = line.default if line.default_factory is MISSING else line.default_factory()
        shown = line.metadata["unset"] if default is None else default
        only = f"; {line.metadata['only']} only" if line.metadata["only"] else ""
        group.add_argument(
            f"--{line.name}",
            type=value_type,
            choices=line.metadata["choices"],
            nargs="*" if many else None,
            help=f"{line.metadata['text']}{only} (default: {shown})".replace("%", "%%"),
            metavar=None if line.metadata["choices"] else line.name.upper(),
        )


def explain_unknown(unknown: list[str], task: str, tasks: tuple[str, ...]) -> str:
    """Which task has the flags that this one lacks."""
    flags = [word.split("=")[0] for word in unknown if word.startswith("--")]
    names = [flag[2:] for flag in flags]
    others = [t for t in tasks if names and set(names) <= {*names_of(settings_class(t))}]
    if others:
        return f"{', '.join(flags)}: not for --task {task}, only for {', '.join(others)}"
    return f"unrecognized arguments: {' '.join(unknown)}"
