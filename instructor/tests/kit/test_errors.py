"""What a student reads when submission.py stops with an error: its own line, no traceback."""

import importlib.util
from pathlib import Path

import pytest

import inference
import train
from instructor.tests.kit.tools import stop_message
from kit.files import ROOT

VAE = ["--task", "VAEwolabel", "--latent_dim", "5", "--epochs", "1", "--batch_size", "20"]
DECODE = "return torch.sigmoid(self.decoder(z)).reshape(-1, 1, 28, 28)"
SOURCE = (ROOT / "submission.py").read_text()


@pytest.fixture
def with_source(here, monkeypatch):
    """A function: old and new text -> train.py and inference.py use the submission edited so."""

    def change(old: str, new: str) -> None:
        assert old in SOURCE
        Path("submission.py").write_text(SOURCE.replace(old, new, 1))
        spec = importlib.util.spec_from_file_location("edited", Path("submission.py").resolve())
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for command in (train, inference):
            monkeypatch.setattr(command, "submission", module)

    return change


@pytest.mark.parametrize("kind", ["ValueError", "TypeError", "KeyError", "AssertionError"])
def test_an_error_of_the_student_s_code_shows_its_own_line(with_source, kind):
    train.main(VAE)
    line = f"raise {kind}('odd shape')"
    with_source(DECODE, line)
    infer = [inference.main, "--checkpoint_path", "runs/VAEwolabel/best.pth"]
    for message in (stop_message(*infer), stop_message(train.main, *VAE)):
        first, place, code = message.splitlines()
        assert first.startswith(f"error: {kind}: ") and "odd shape" in first
        assert place.startswith("  submission.py, line ") and place.endswith(", in decode:")
        assert code.strip() == line


def test_an_error_inside_a_library_shows_the_student_s_line(with_source):
    with_source(DECODE, "return torch.sigmoid(self.decoder(z[:, :3])).reshape(-1, 1, 28, 28)")
    message = stop_message(train.main, *VAE)
    assert "mat1 and mat2" in message and "self.decoder(z[:, :3])" in message
    assert "submission.py, line" in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            DECODE,
            "return self.decoder(z).flatten(1)[:, :5]",
            ["forward must return", "base.py"],
        ),
        ("return self.decode(z), mu, log_var", "return mu, log_var", ["unpack", "self.model(x"]),
        ("return (reconstruction + kl) / batch", "return 1.0", ["float", "trainer.py, line"]),
    ],
)
def test_what_does_not_fit_shows_the_line_that_could_not_use_it(with_source, old, new, words):
    with_source(old, new)
    message = stop_message(train.main, *VAE)
    assert all(word in message for word in words), message
    assert "what submission.py gave it" in message and message.count("\n") == 3
