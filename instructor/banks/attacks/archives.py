"""Uploads that are attacks as files: archives, links, pipes, names, checkpoints.

Each function with `@archive_attack` builds one upload from the honest one: `(folder, honest) ->
Path`, where `folder` is empty and `honest` a folder that earns the usual grade. Its docstring says
what it tries and holds the verdict, as in submissions/.
"""

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kit.assignment import USUAL, tasks_of

Builder = Callable[[Path, Path], Path]
ARCHIVES: list[Builder] = []


def archive_attack(build: Builder) -> Builder:
    """Register an attack: its name and docstring are those of the function that builds it."""
    ARCHIVES.append(build)
    return build


def zip_of(folder: Path, files: dict[str, bytes], name: str = "upload.zip") -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path


def files_of(honest: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in honest.iterdir()}


def copy_of(folder: Path, honest: Path) -> Path:
    return Path(shutil.copytree(honest, folder / "upload"))


@archive_attack
def escaping_members(folder: Path, honest: Path) -> Path:
    """Members that would be written beside the target.

    code: usual
    quality: usual
    """
    claim = b'{"score": 1000, "tests": []}'
    names = ["../../hostile-escaped", "/tmp/hostile-escaped", "..\\hostile-escaped", "tests/x.py"]
    names += ["../results.json", "results.json", "/etc/hostile-escaped"]
    return zip_of(folder, files_of(honest) | dict.fromkeys(names, claim))


@archive_attack
def shadowing_files(folder: Path, honest: Path) -> Path:
    """Modules and settings with the names of those that the grader loads.

    code: usual
    quality: usual
    """
    names = "conftest.py pytest.ini sitecustomize.py usercustomize.py model.py data_utils.py "
    names += "inference.py torch.py numpy.py json.py tests/__init__.py tests/worker.py grade.py"
    bad = b"raise SystemExit('loaded from an upload')\n"
    return zip_of(folder, files_of(honest) | dict.fromkeys(names.split(), bad))


@archive_attack
def linked_members(folder: Path, honest: Path) -> Path:
    """A zip whose submission.py is a link to the solved one.

    code: 0
    quality: 0
    reason: there is no usable submission.py
    """
    path = folder / "upload.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("submission.py")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/autograder/source/submission.py")
    return path


@archive_attack
def links_and_pipes(folder: Path, honest: Path) -> Path:
    """A folder with a link to the solved submission and pipes for checkpoints.

    code: 0
    quality: 0
    reason: there is no usable submission.py
    """
    upload = folder / "upload"
    upload.mkdir()
    (upload / "submission.py").symlink_to(honest / "submission.py")
    os.mkfifo(upload / "JSA.pth")
    return upload


@archive_attack
def pipe_as_upload(folder: Path, honest: Path) -> Path:
    """A pipe, from which reading would never end.

    code: 0
    quality: 0
    reason: the upload is a pipe
    """
    os.mkfifo(folder / "upload.zip")
    return folder / "upload.zip"


@archive_attack
def bomb(folder: Path, honest: Path) -> Path:
    """Checkpoints that unpack to a thousand times their size.

    code: usual
    quality: 0
    """
    zeros = {f"{task}.pth": bytes(60 << 20) for task in tasks_of(USUAL)}
    return zip_of(folder, files_of(honest) | zeros)


@archive_attack
def damaged(folder: Path, honest: Path) -> Path:
    """A zip that ends in the middle.

    code: 0
    quality: 0
    reason: the upload
    """
    path = zip_of(folder, files_of(honest))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@archive_attack
def odd_name(folder: Path, honest: Path) -> Path:
    """A name that is a formula, an option, a tag and an escape code.

    code: usual
    quality: usual
    """
    name = "--unsafe =cmd|' \x1b[2J<script>window.hacked=1<\u2215script>\n.zip"
    return zip_of(folder, files_of(honest), name)


@archive_attack
def pickled_checkpoint(folder: Path, honest: Path) -> Path:
    """Checkpoints that run code where they are unpickled.

    code: usual
    quality: 0
    """

    class Bomb:
        def __reduce__(self):
            return exec, ("open('/tmp/hostile-unpickled', 'w').close()",)

    upload = copy_of(folder, honest)
    torch.save({"model_state_dict": Bomb()}, upload / "VAEwolabel.pth")
    (upload / "Genwithlabel.pth").write_bytes(pickle.dumps(Bomb()))
    (upload / "JSA.pth").write_bytes(b"\x80\x02" + b"(" * 1_000_000)
    return upload


@archive_attack
def checkpoint_bomb(folder: Path, honest: Path) -> Path:
    """Checkpoints whose tensors or settings ask for terabytes.

    code: usual
    quality: 0
    """
    upload = copy_of(folder, honest)
    checkpoint = torch.load(honest / "JSA.pth", weights_only=True)
    checkpoint["config"]["hidden"] = [10**6, 10**6]
    torch.save(checkpoint, upload / "JSA.pth")
    vast = torch.zeros(1).expand(10**6, 10**6)
    torch.save({"model_state_dict": {"x": vast}}, upload / "VAEwolabel.pth")
    with zipfile.ZipFile(upload / "Genwithlabel.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        file = io.BytesIO()
        torch.save({"x": torch.zeros(100_000)}, file)
        with zipfile.ZipFile(file) as honest_file:
            for name in honest_file.namelist():
                archive.writestr(name, honest_file.read(name) * 10_000)
    return upload


@archive_attack
def source_bomb(folder: Path, honest: Path) -> Path:
    """A submission.py on which the compiler spends its memory.

    code: 0
    quality: 0
    """
    upload = copy_of(folder, honest)
    (upload / "submission.py").write_text(
        "(" * 90 + "1" + ",)" * 90 + "\nx = " + "-" * 900_000 + "1"
    )
    return upload


@archive_attack
def no_source(folder: Path, honest: Path) -> Path:
    """Checkpoints without a submission.py.

    code: 0
    quality: 0
    reason: there is no usable submission.py
    """
    upload = copy_of(folder, honest)
    (upload / "submission.py").unlink()
    return upload


@archive_attack
def hostile_logs(folder: Path, honest: Path) -> Path:
    """Logs with scripts, numbers out of range and one line of a megabyte.

    code: usual
    quality: usual
    """
    upload = copy_of(folder, honest)
    (upload / "log_JSA.csv").write_text("epoch,<script>,$\\x$\n1,1e999,nan\n" + "2," * 500_000)
    (upload / "log_VAEwolabel.csv").write_bytes(bytes(range(256)) * 100)
    np.savetxt(upload / "log_Genwithlabel.csv", np.full((20, 60), 1e300), delimiter=",")
    return upload
