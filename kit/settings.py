"""Every setting of a run, once: its name, type, default, help and choices stand on one line.

Flags, `--help`, config.json and the task objects follow from the classes here; kit/command_line.py
reads them from the command line.
"""

import dataclasses
import json
import math
import pkgutil
import types
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from kit.assignment import CODE_KINDS, TASKS
from kit.files import DATA_DIR
from model import ACTIVATIONS

LIKELIHOODS, LATENTS = ("gaussian", "bernoulli"), TASKS["JSA"].code_kinds
METRICS, CHAIN_STATES = ("mse", "loss", "nll"), ("last", "all")
PRIORS = ("mixture", "uniform")
BINARIZE, CODES = ("none", "threshold", "dynamic"), ("local", "best", "mode", "posterior")
DATASETS, SAMPLERS = ("images", "gaussian2d"), ("gibbs", "mis")
CATEGORIES = (2, TASKS["JSA"].max_categories)
MAX_TOY_STATES = 4096
MAX_PROTOTYPES = TASKS["CGAE"].max_categories // 28**2
RUN_MARK = "train_sha256"  # only the config of a run has it
NO_SETTINGS = {"task", RUN_MARK}  # stand in config.json beside the settings

# Help texts that are too long for the line of their setting.
METRIC_TEXT = """best.pth has the smallest: reconstruction error, loss, or -log p(x) by importance
sampling, on the validation split"""
BINARIZE_TEXT = "pixels to 0/1: at half intensity, or drawn anew at each visit"
HIDDEN_TEXT = "an MLP with these hidden widths, seen from x; no number after it: a linear map"
DATASET_TEXT = "gaussian2d: a toy in the plane where likelihood and posterior are exact"
SIGMA_TEXT = """standard deviation of the Gaussian likelihood in the last epochs; smaller: sharper
reconstructions, chains that move less"""
CACHE_TEXT = "first epoch in which chains start from the cached states; before, from draws of q"
STATES_TEXT = "train on the chain's last state, or on the average over all its states"
CODE_TEXT = """how an image is encoded: the best by log p(x, h) of the mode of q(h|x) and
--code_draws draws, improved by --code_steps single changes (local) or not (best); the mode; or one
of the draws, in proportion to its importance weight (posterior)"""
CODE_STEPS_TEXT = "changes that are tried; 100 take 11 s of one core for 1,000 images"
MIXTURE = "--prior mixture"
PRIOR_TEXT = "p(h): a mixture of products that learns, or the paper's uniform prior"
LOCAL_TEXT = "G, gradient-guided single changes of h after the proposals; 0: the paper's sampler"


class SettingsError(ValueError):
    """A setting has a value that it cannot have; the message names it."""


def setting(
    default, text: str, choices=None, *, bounds=None, unset: str = "", only: str = "", before=None
):
    """One setting.

    Args:
        text: of --help.
        choices: the values it may have; None: any.
        bounds: the smallest and the largest number; None: any number greater than 0.
        unset: what the default None means, for --help.
        only: a flag and value without which this setting has no meaning.
        before: its value in runs from before the setting was there; None: the default.
    """
    metadata = {"text": text, "choices": choices, "bounds": bounds, "unset": unset, "only": only}
    metadata["before"] = before
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def defaults(**values):
    """A class decorator: other defaults for inherited settings; the rest of their line stays."""

    def change(kind):
        if unknown := values.keys() - {line.name for line in fields(kind.__base__)}:
            raise TypeError(f"{kind.__name__} inherits no settings {', '.join(sorted(unknown))}")
        for line in fields(kind.__base__):
            if line.name in values:
                kind.__annotations__[line.name] = line.type
                setattr(kind, line.name, setting(values[line.name], **line.metadata))
        return dataclass(kw_only=True)(kind)

    return change


def kind_of(line: dataclasses.Field) -> tuple[type, bool, bool]:
    """The type of a value (of an entry, if it is a list); is it a list; may it be None."""
    inner, optional = line.type, False
    if isinstance(inner, types.UnionType):
        inner, optional = typing.get_args(inner)[0], True
    if typing.get_origin(inner) is list:
        return typing.get_args(inner)[0], True, optional
    return inner, False, optional


class Settings:
    """What all settings classes share: every value is checked when it is set at the start.

    Raises:
        SettingsError: a value has the wrong type, or is none of the choices, or not positive; or
            it was changed although it has no meaning here.
    """

    def __post_init__(self):
        for line in fields(self):
            setattr(self, line.name, checked(line, getattr(self, line.name)))
        useless: dict[str, list[str]] = {}  # flags, by what they need
        for line in fields(self):
            if (only := line.metadata["only"]) and getattr(self, line.name) != line.default:
                name, value = only.removeprefix("--").split()
                if getattr(self, name) != value:
                    useless.setdefault(only, []).append(f"--{line.name}")
        for only, flags in useless.items():
            raise SettingsError(f"{', '.join(flags)}: only with {only}")


def checked(line: dataclasses.Field, value):
    """The value, an int made a float where one is meant; a list is copied."""
    kind, many, optional = kind_of(line)
    if value is None and optional:
        return None
    if isinstance(value, list | tuple) and many:
        return [_one(line, kind, entry) for entry in value]
    if many:
        raise SettingsError(f"--{line.name} must be a list, not {value!r}")
    return _one(line, kind, value)


def _one(line: dataclasses.Field, kind: type, value):
    numbers = {int: "an integer", float: "a number", str: "text"}
    fits = isinstance(value, int | float if kind is float else kind)
    if not fits or isinstance(value, bool):
        raise SettingsError(f"--{line.name} must be {numbers[kind]}, not {value!r}")
    choices = line.metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f"--{line.name} must be one of {', '.join(choices)}, not {value!r}")
    bounds = line.metadata["bounds"]
    if kind is not str and bounds is None and not 0 < value < math.inf:
        raise SettingsError(f"--{line.name} must be greater than 0, not {value}")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise SettingsError(f"--{line.name} must be from {bounds[0]} to {bounds[1]}, not {value}")
    return kind(value)


# ----------------------------------------------------------------------------------------------
# The run


@dataclass(kw_only=True)
class RunSettings(Settings):
    """What does not depend on the task."""

    data_dir: str = setting(DATA_DIR, "folder with train.npz and valid.npz")
    seed: int = setting(0, "seeds everything random", bounds=(0, 2**32 - 1))
    device: str = setting("auto", "cpu, cuda, or auto: cuda if there is one")
    val_metric: str = setting("mse", METRIC_TEXT, METRICS)
    nll_samples: int = setting(50, "draws per image for --val_metric nll; more come closer")
    nll_every: int = setting(1, "epochs from one such estimate to the next")


# ----------------------------------------------------------------------------------------------
# The tasks


@dataclass(kw_only=True)
class TaskSettings(Settings):
    """What every task has. Subclasses name their task object and add their own settings."""

    task: ClassVar[str]
    task_class: ClassVar[str]  # "module:class"
    by_dataset: ClassVar[dict[str, type]] = {}  # settings classes of other data sets than images

    latent_dim: int = setting(20, "entries of a code; longer: better pictures, smaller bonus")
    epochs: int = setting(50, "passes over the training split")
    batch_size: int = setting(50, "examples per step, of all processes together")
    binarize: str = setting("none", BINARIZE_TEXT, BINARIZE)

    @classmethod
    def run_name(cls) -> str:
        """The run folder under runs/."""
        return cls.task

    @classmethod
    def seen_in(cls, state: dict) -> dict:
        """Settings that the weights tell, for a checkpoint that has no config."""
        return {}

    def check_run(self, run: RunSettings) -> None:
        """Raise SettingsError where the run asks for what this task does not have."""


@dataclass(kw_only=True)
class GenSettings(TaskSettings):
    """Generate the digit one asks for, with a network that knows the label (part 3)."""

    task = "Genwithlabel"
    task_class = "kit.tasks.vae:GenTask"

    likelihood: str = setting("gaussian", "family of p(x|z)", LIKELIHOODS)
    lr: float = setting(1e-3, "peak learning rate of Adam")
    var: float = setting(0.3, "variance of p(x|z); smaller: sharper, samples less like digits")


@defaults(var=0.05)
class VAESettings(GenSettings):
    """A variational autoencoder (part 2)."""

    task = "VAEwolabel"
    task_class = "kit.tasks.vae:VAETask"

    hidden: list[int] | None = setting(None, HIDDEN_TEXT, unset="convolutions")


@defaults(latent_dim=200, epochs=40)
class JSASettings(TaskSettings):
    """Discrete latent variables by joint stochastic approximation (part 4)."""

    task = "JSA"
    task_class = "kit.tasks.jsa:JSATask"

    dataset: str = setting("images", DATASET_TEXT, DATASETS)
    latent: str = setting("bernoulli", "kind of latent variables", LATENTS)
    num_categories: int = setting(10, "values of one categorical variable", bounds=CATEGORIES)
    likelihood: str = setting("gaussian", "family of p(x|h)", LIKELIHOODS)
    hidden: list[int] | None = setting(None, HIDDEN_TEXT, unset="convolutions")
    activation: str = setting("leaky_relu", "between the layers", tuple(ACTIVATIONS))
    lr_joint: float = setting(3e-3, "peak learning rate for p(x, h)")
    lr_proposal: float = setting(3e-3, "peak learning rate for q(h|x)")
    sigma: float = setting(0.25, SIGMA_TEXT)
    sigma_start: float = setting(0.5, "... in the first epoch; larger: chains move more at first")
    num_mis_steps: int = setting(5, "T, proposals per batch and example")
    cache_start_epoch: int | None = setting(
        None, CACHE_TEXT, unset="after 1/3 of the epochs, with --local_steps 0 after 2/3"
    )
    chain_states: str = setting("last", STATES_TEXT, CHAIN_STATES)
    prior: str = setting("mixture", PRIOR_TEXT, PRIORS, before="uniform")
    prior_components: int = setting(50, "M", bounds=(1, 10_000), only=MIXTURE)
    lr_prior: float = setting(3e-2, "peak learning rate of p(h)", only=MIXTURE)
    local_steps: int = setting(3, LOCAL_TEXT, bounds=(0, 10_000), before=0)
    code: str = setting("local", CODE_TEXT, CODES)
    code_draws: int = setting(20, "draws for --code")
    code_steps: int = setting(40, CODE_STEPS_TEXT, bounds=(0, 200), only="--code local")

    @classmethod
    def seen_in(cls, state):
        logits = state.get("joint.mixture.mixture_logits")
        return {} if logits is None else {"prior": "mixture", "prior_components": len(logits)}

    def __post_init__(self):
        super().__post_init__()
        if self.cache_start_epoch is None:
            # Without local steps a chain soon moves for records only, so the cache comes later.
            before = 1 / 3 if self.local_steps > 0 else 2 / 3
            self.cache_start_epoch = math.floor(before * self.epochs + 1e-9) + 1


@defaults(
    dataset="gaussian2d",
    latent="categorical",
    latent_dim=1,
    num_categories=12,
    hidden=[50, 50],
    epochs=40,
    num_mis_steps=5,
    lr_joint=3e-3,
    lr_proposal=3e-3,
    code="mode",
    prior_components=1,
    lr_prior=1e-2,
    local_steps=0,
    sigma=0.05,
    sigma_start=0.3,
    cache_start_epoch=1,
)
class ToySettings(JSASettings):
    """JSA on points in the plane, with so few latent states that everything is exact (part 4)."""

    task_class = "kit.tasks.toy:ToyTask"

    def __post_init__(self):
        super().__post_init__()
        values = CODE_KINDS[self.latent].values or self.num_categories
        if values**self.latent_dim > MAX_TOY_STATES:
            raise SettingsError(
                f"--dataset gaussian2d enumerates all states: at most {MAX_TOY_STATES}, not "
                f"{values}^{self.latent_dim}; change --latent_dim or --num_categories"
            )

    @classmethod
    def run_name(cls) -> str:
        return "gaussian2d"


JSASettings.by_dataset = {"gaussian2d": ToySettings}


@defaults(latent_dim=14, epochs=12, batch_size=100)
class PatchSettings(TaskSettings):
    """An image as a sum of movable patches, by Gibbs sampling (part 5, challenge)."""

    task = "CGAE"
    task_class = "kit.tasks.patches:PatchTask"

    num_prototypes: int = setting(16, "K, different patches")
    patch_size: int = setting(7, "R, their height and width; odd")
    sampler: str = setting("gibbs", "one Gibbs sweep per batch, or MIS with q(h|x)", SAMPLERS)
    lr: float = setting(2e-2, "peak learning rate for the prototypes")
    beta: float = setting(30.0, "1 / (2 sigma^2) at the end; larger: choices that move less")
    beta_start: float = setting(1.0, "... in the first epoch")
    lr_proposal: float = setting(1e-3, "peak learning rate for q(h|x)", only="--sampler mis")
    num_mis_steps: int = setting(2, "proposals per batch and example", only="--sampler mis")
    cache_start_epoch: int = setting(1, "first epoch with the cache", only="--sampler mis")

    def __post_init__(self):
        super().__post_init__()
        if self.patch_size % 2 == 0 or self.patch_size > 28:
            raise SettingsError(f"--patch_size {self.patch_size}: an odd number up to 27")
        if self.num_prototypes > MAX_PROTOTYPES:
            raise SettingsError(
                f"--num_prototypes: at most {MAX_PROTOTYPES}, a code's entry has 16 bits"
            )

    def check_run(self, run):
        if run.val_metric == "nll" and self.sampler == "gibbs":
            raise SettingsError("--val_metric nll draws from q(h|x), which only --sampler mis has")


# ----------------------------------------------------------------------------------------------
# From a flat dictionary, as config.json and checkpoints hold it, and back


def settings_class(task: str, dataset: str | None = None) -> type[TaskSettings]:
    """The settings class of a task; a data set may have one of its own (the toy's)."""
    kind = pkgutil.resolve_name(TASKS[task].settings)
    return kind.by_dataset.get(str(dataset), kind)


def names_of(*kinds: type[Settings]) -> list[str]:
    return [line.name for kind in kinds for line in fields(kind)]


def completed(config: dict) -> dict:
    """The config of a run, with the settings that were not there yet when it was made."""
    if config.get("task") not in TASKS:
        return config
    kind = settings_class(config["task"], config.get("dataset"))
    before = {line.name: line.metadata["before"] for line in fields(kind)}
    return config | {k: v for k, v in before.items() if v is not None and k not in config}


def from_config(config: dict) -> TaskSettings:
    """The task's settings in the config of a run; what it lacks is `completed` or has its default,
    other keys are left alone.

    Raises:
        SettingsError: there is no such task, or a value cannot be.
    """
    if config.get("task") not in TASKS:
        raise SettingsError(f"task must be one of {', '.join(TASKS)}, not {config.get('task')!r}")
    config = completed(config)
    kind = settings_class(config["task"], config.get("dataset"))
    return kind(**{name: config[name] for name in names_of(kind) if name in config})


def run_from_config(config: dict) -> RunSettings:
    return RunSettings(**{name: config[name] for name in names_of(RunSettings) if name in config})


def to_config(settings: TaskSettings, run: RunSettings) -> dict:
    """All settings of a run in one flat dictionary, JSON-serialisable."""
    return {"task": settings.task, **dataclasses.asdict(run), **dataclasses.asdict(settings)}


def read_settings_file(path: str | Path) -> dict:
    """The settings in a JSON file; a run's config.json is such a file.

    Raises:
        SettingsError: the file cannot be read, or holds no JSON object.
    """
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"--config {path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise SettingsError(f"--config {path} must hold a JSON object, name: value")
    return completed(found) if RUN_MARK in found else found
