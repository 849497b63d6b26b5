"""Settings: one line each, from which flags, --help, --config and config.json follow."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import train
from instructor.tests.kit.tools import stop_message
from kit.assignment import TASKS
from kit.command_line import parse
from kit.settings import (
    GenSettings,
    JSASettings,
    PatchSettings,
    RunSettings,
    SettingsError,
    ToySettings,
    VAESettings,
    from_config,
    names_of,
    run_from_config,
    settings_class,
    to_config,
)

KINDS = [VAESettings, GenSettings, JSASettings, ToySettings, PatchSettings]
ALL = tuple(TASKS)


def call_of(flags: str):
    return parse(flags.split(), ALL)


def refused(capsys, flags: str) -> str:
    with pytest.raises(SystemExit) as stop:
        call_of(flags)
    assert stop.value.code == 2
    return capsys.readouterr().err


def help_of(capsys, flags: str) -> str:
    with pytest.raises(SystemExit) as stop:
        call_of(flags)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_help_has_the_task_s_flags_and_defaults_and_no_others(capsys, kind):
    more = " --dataset gaussian2d" if kind is ToySettings else ""
    text = help_of(capsys, f"--task {kind.task}{more} --help")
    own = {*names_of(kind, RunSettings), "task", "config", "save_dir", "resume", "overwrite"}
    entries = [" ".join(entry.split()) for entry in re.split(r"^  --", text, flags=re.MULTILINE)]
    by_name = {re.match(r"\w+", entry)[0]: entry for entry in entries[1:]}
    assert len(by_name) == len(entries) - 1 and by_name.keys() == own
    for name, value in vars(kind()).items():
        if name != "cache_start_epoch" and value is not None:  # the former follows the epochs
            assert f"(default: {value})" in by_name[name]


def test_the_overview_lists_the_tasks(capsys):
    text = help_of(capsys, "--help")
    assert all(f"  {task}" in text and settings_class(task).__doc__ in text for task in ALL)
    assert "--sigma" not in text
    with pytest.raises(SystemExit):
        parse(["--task", "CGAE"], ("VAEwolabel",))
    assert re.search(
        r"invalid choice: 'CGAE' \(choose from '?VAEwolabel'?\)", capsys.readouterr().err
    )


def test_flags_become_settings():
    call = call_of("--task JSA --hidden 30 20 --sigma 1 --seed 3 --epochs 9 --save_dir x --resume")
    assert call.settings == JSASettings(hidden=[30, 20], sigma=1.0, epochs=9)
    assert call.settings.cache_start_epoch == 4 and isinstance(call.settings.sigma, float)
    assert call_of("--task JSA --epochs 9 --local_steps 0").settings.cache_start_epoch == 7
    assert call.run == RunSettings(seed=3) and (call.save_dir, call.resume) == ("x", True)
    assert call.given == {"hidden": [30, 20], "sigma": 1.0, "epochs": 9, "seed": 3}
    assert call_of("--task VAEwolabel --hidden").settings.hidden == []
    toy = call_of("--task JSA --dataset gaussian2d")
    assert toy.settings == ToySettings() and toy.save_dir == "runs/gaussian2d"


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_gives_the_same_settings_again(kind):
    settings, run = kind(latent_dim=3), RunSettings(seed=4)
    config = json.loads(json.dumps(to_config(settings, run)))
    assert config["task"] == kind.task
    assert from_config(config | {"train_sha256": "x"}) == settings
    assert type(from_config(config)) is kind and run_from_config(config) == run


def test_each_task_has_its_own_lists():
    a, b = ToySettings(), ToySettings()
    a.hidden.append(1)
    assert b.hidden == ToySettings().hidden == [50, 50]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--task JSA --sigma 0", ["--sigma must be greater than 0"]),
        ("--task JSA --sigma inf", ["--sigma must be greater than 0"]),
        ("--task JSA --latent bits", ["invalid choice: 'bits'"]),
        ("--task JSA --epochs 1.5", ["invalid int value"]),
        ("--task JSA --hidden 20 0", ["--hidden must be greater than 0"]),
        ("--task JSA --var 0.1", ["--var: not for --task JSA, only for VAEwolabel, Genwithlabel"]),
        ("--task JSA --sig 0.1", ["unrecognized arguments: --sig 0.1"]),
        ("--task Genwithlabel --hidden 5", ["--hidden: not for --task Genwithlabel"]),
        ("--task JSA --dataset gaussian2d --latent_dim 4", ["at most 4096, not 12^4"]),
        ("--task CGAE --num_mis_steps 3", ["--num_mis_steps: only with --sampler mis"]),
        ("--task JSA --prior uniform --lr_prior 1", ["--lr_prior: only with --prior mixture"]),
        ("--task JSA --code best --code_steps 3", ["--code_steps: only with --code local"]),
        ("--epochs 3", ["--task"]),
        ("--task JSA --seed -3", ["--seed must be from 0 to 4294967295"]),
        ("--task JSA --num_categories 1", ["--num_categories must be from 2 to 256"]),
        ("--task JSA --num_categories 300", ["--num_categories must be from 2 to 256"]),
        ("--task JSA --resume --overwrite", ["give one of them"]),
    ],
)
def test_flags_that_cannot_be(capsys, flags, words):
    error = refused(capsys, flags)
    assert all(word in error for word in words), error
    assert "Traceback" not in error


# ----------------------------------------------------------------------------------------------
# --config


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A function: any value -> flags that read it from a file."""
    monkeypatch.chdir(tmp_path)

    def write(value) -> str:
        Path("config.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return "--config config.json"

    return write


def test_a_run_starts_from_a_file_and_flags_win(config):
    some = {"task": "JSA", "sigma": 0.3, "latent_dim": 7, "seed": 5}
    call = call_of(f"{config(some)} --sigma 0.4")
    assert call.settings == JSASettings(sigma=0.4, latent_dim=7) and call.run.seed == 5
    # A run's own config that lacks a setting is from before it: then as it was trained.
    before = call_of(config(some | {"train_sha256": "x"})).settings
    assert before == JSASettings(sigma=0.3, latent_dim=7, prior="uniform", local_steps=0)
    assert call_of(config({"task": "JSA", "dataset": "gaussian2d"})).settings == ToySettings()
    assert call_of(config({"lr": 1}) + " --task VAEwolabel").settings == VAESettings(lr=1.0)


@pytest.mark.parametrize(
    ("value", "more", "words"),
    [
        ({"task": "JSA", "sigmma": 1, "lrr": 2}, "", ["sigmma, lrr"]),
        ({"task": "JSA", "var": 1}, "", ["JSA has no settings var"]),
        ({"task": "JSA"}, " --task VAEwolabel --sigma 1", ["--sigma: not for --task VAEwolabel"]),
        ({"task": "XYZ"}, "", ["task must be one of VAEwolabel"]),
        ({"task": ["JSA"]}, "", ["task must be one of VAEwolabel"]),
        ({"sigma": 1}, "", ["--task"]),
        ({"task": "JSA", "epochs": "ten"}, "", ["--epochs must be an integer, not 'ten'"]),
        ({"task": "JSA", "epochs": True}, "", ["--epochs must be an integer"]),
        ({"task": "JSA", "epochs": 2.5}, "", ["--epochs must be an integer"]),
        ({"task": "JSA", "epochs": None}, "", ["--epochs must be an integer"]),
        ({"task": "JSA", "hidden": 30}, "", ["--hidden must be a list"]),
        ({"task": "JSA", "hidden": [1, "a"]}, "", ["--hidden must be an integer"]),
        ({"task": "JSA", "latent": "bits"}, "", ["--latent must be one of bernoulli"]),
        ({"task": "JSA", "dataset": []}, "", ["--dataset must be text"]),
        ({"task": "JSA", "sigma": -1}, "", ["--sigma must be greater than 0"]),
        ([1], "", ["must hold a JSON object"]),
        ("{torn", "", ["cannot be read"]),
        ("[" * 100_000, "", ["cannot be read"]),
        ({"task": "JSA"}, " --resume", ["--resume takes the settings from the run folder"]),
    ],
)
def test_files_that_cannot_be(config, capsys, value, more, words):
    error = refused(capsys, config(value) + more)
    assert all(word in error for word in words), error
    assert "Traceback" not in error
    assert "cannot be read" in refused(capsys, "--task JSA --config nowhere.json")


def test_a_run_s_own_config_makes_the_run_again(here):
    train.main(
        [
            "--task",
            "JSA",
            "--hidden",
            "20",
            "--latent_dim",
            "5",
            "--epochs",
            "1",
            "--save_dir",
            "a",
            "--seed",
            "3",
        ]
    )
    train.main(["--config", "a/config.json", "--save_dir", "b"])
    first, second = (json.loads(Path(f"{name}/config.json").read_text()) for name in "ab")
    assert first == second
    assert Path("a/log.csv").read_bytes() == Path("b/log.csv").read_bytes()


def test_configs_of_version_1_0_are_read(here):
    """A run folder of that time has no settings that were added since; it resumes."""
    flags = ["--task", "VAEwolabel", "--hidden", "20", "--epochs", "1", "--save_dir", "run"]
    train.main(flags)
    config = json.loads(Path("run/config.json").read_text())
    del config["nll_every"]
    Path("run/config.json").write_text(json.dumps(config))
    train.main([*flags[:-4], "--save_dir", "run", "--resume", "--epochs", "2"])
    assert len(Path("run/log.csv").read_text().splitlines()) == 3
    assert "--var 0.05" in stop_message(train.main, *flags, "--resume", "--var", "1")


def test_values_are_checked_wherever_settings_are_made():
    with pytest.raises(SettingsError, match="--beta must be a number"):
        PatchSettings(beta="large")
    with pytest.raises(SettingsError, match="task must be one of"):
        from_config({"latent_dim": 3})
    assert all(line.metadata["text"] for kind in KINDS for line in fields(kind))
