"""Uploads: honest ones in every shape that students send, and hostile ones."""

import hashlib
import os
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from instructor.grading import uploads
from instructor.grading.unpacking import UploadError, plain, unpack
from instructor.grading.uploads import fingerprint, list_uploads
from kit.assignment import LIMITS

HONEST = {"submission.py": b"x = 1\n", "JSA.pth": b"weights", "log_JSA.csv": b"epoch\n"}
LINK, PIPE = 0o120777 << 16, 0o010644 << 16  # as external attributes of a member


@pytest.fixture(autouse=True)
def watched(tmp_path):
    """Nothing is written beside `target`, and no partial file stays in it."""
    (tmp_path / "target").mkdir()
    yield
    assert not (tmp_path / "submission.py").exists()
    assert {path.name for path in (tmp_path / "target").iterdir()} <= {*LIMITS, "mine"}


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "target"


def make_zip(path: Path, members: list[tuple[str, bytes]], attributes: int = 0o100644 << 16):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # members with the same name
        for name, content in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # as it is
            info.external_attr = attributes
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def patch_directory(path: Path, offset: int, value: bytes, what: bytes = b"PK\x01\x02") -> Path:
    """Overwrite bytes of the last entry in the archive's directory."""
    raw = bytearray(path.read_bytes())
    at = raw.rindex(what) + offset
    raw[at : at + len(value)] = value
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("place", ["", "./", "Ana's handout/", "été/"])
@pytest.mark.parametrize("limited", [False, True])
def test_an_honest_zip(tmp_path, target, place, limited):
    members = [(f"{place}{name}", content) for name, content in HONEST.items()]
    members += [("__MACOSX/submission.py", b"no"), (f"__MACOSX/{place}._JSA.pth", b"no")]
    members += [(".DS_Store", b"no"), (f"{place}model.py", b"no")]
    path = make_zip(tmp_path / "Ana.zip", members)
    read = uploads.unpack_limited if limited else unpack
    assert read(path, target) == []
    assert contents(target) == HONEST
    assert {stat.S_IMODE(file.stat().st_mode) for file in target.iterdir()} == {0o644}


@pytest.mark.parametrize("place", ["", "handout/"])
def test_an_honest_folder(tmp_path, target, place):
    folder = tmp_path / "Ana" / place
    (folder / "runs").mkdir(parents=True)
    for name, content in HONEST.items():
        (folder / name).write_bytes(content)
    assert unpack(tmp_path / "Ana", target) == []
    assert contents(target) == HONEST


def test_names_and_keys(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    names = [b"a\nb.zip", b"=1+1.zip", b"\x1b[31mred.zip", b"\xff\xfe.zip", b"Ana.ZIP", b"Ana.zip"]
    names += ["\u202egpj.zip".encode(), b"x" * 250, b" .zip", b".hidden.zip", b"report.pdf"]
    names += ["Zoë".encode(), b"Ana"]
    for name in names:
        (folder / os.fsdecode(name)).touch()
    found = list_uploads(folder)
    assert [os.fsencode(upload.path.name) for upload in found] == sorted(set(names) - {names[9]})
    assert len({upload.key for upload in found}) == len(found)
    assert all(re.fullmatch("[a-z0-9-]{1,50}", upload.key) for upload in found)
    assert all(upload.name.isprintable() and 1 <= len(upload.name) <= 80 for upload in found)
    by_entry = {os.fsencode(upload.path.name): upload for upload in found}
    assert by_entry[b"a\nb.zip"].name == "a\ufffdb"
    assert by_entry[b"\x1b[31mred.zip"].name == "\ufffd[31mred"
    assert by_entry[b"\xff\xfe.zip"].name == "\ufffd\ufffd"
    assert by_entry["\u202egpj.zip".encode()].name == "\ufffdgpj"
    assert by_entry[b" .zip"].name == "unnamed"
    expected = f"zoe-{hashlib.sha256('Zoë'.encode()).hexdigest()[:8]}"
    assert by_entry["Zoë".encode()].key == expected
    with pytest.raises(UploadError, match="cannot be listed"):
        list_uploads(folder / "missing")


def test_plain():
    assert plain("a\tb\x00\u2028\ud800 c", 80) == "a\ufffdb\ufffd\ufffd\ufffd c"
    assert plain("12345", 5) == "12345"
    assert plain("123456", 5) == "1234…"


@pytest.mark.parametrize(
    "name", ["../submission.py", "/submission.py", "a\\submission.py", "a/b/submission.py"]
)
def test_a_file_in_a_strange_place(tmp_path, target, name):
    path = make_zip(tmp_path / "u.zip", [(name, b"no")])
    notes = unpack(path, target)
    assert notes == [
        "submission.py is missing",
        f"{name} is neither at the top nor in the one folder; ignored",
    ]
    assert contents(target) == {}


def test_the_folder_with_the_code_is_the_one_that_counts(tmp_path, target):
    path = make_zip(tmp_path / "u.zip", [("a/submission.py", b"1"), ("b/JSA.pth", b"2")])
    assert unpack(path, target) == [
        "b/JSA.pth is neither at the top nor in the one folder; ignored"
    ]
    assert contents(target) == {"submission.py": b"1"}
    path = make_zip(tmp_path / "v.zip", [("a/submission.py", b"1"), ("b/submission.py", b"2")])
    (target / "submission.py").unlink()
    with pytest.raises(UploadError, match=r"more than one folder \(a/, b/\)"):
        unpack(path, target)


def strange_members(tmp_path: Path) -> dict[str, Path]:
    """Archives whose last member, JSA.pth, is ignored; by the reason."""
    zeros = bytes(200 << 20)
    code = ("submission.py", b"1")

    def one(name: str, content: bytes = b"12345678", **options) -> Path:
        return make_zip(tmp_path / f"{name}.zip", [code, ("JSA.pth", content)], **options)

    crc = struct.pack("<L", 0x12345678)
    return {
        "is a link": one("link", b"/etc/passwd", attributes=LINK),
        "is a pipe": one("pipe", attributes=PIPE),
        "is encrypted": patch_directory(one("encrypted"), 8, b"\x01"),
        "is compressed by an unusual method (14)": patch_directory(one("lzma"), 10, b"\x0e"),
        "is in the archive twice": make_zip(tmp_path / "2.zip", [("JSA.pth", b"1")] * 2),
        "is damaged or cannot be read": patch_directory(one("crc"), 16, crc),
        "is damaged": patch_directory(one("offset"), 42, b"\x07"),
        "is a folder": make_zip(tmp_path / "folder.zip", [code, ("JSA.pth/", b"")]),
        "looks like an archive bomb": one("bomb", zeros),
    }


def test_a_strange_member_is_ignored_and_the_others_stay(tmp_path, target):
    for reason, path in strange_members(tmp_path).items():
        notes = unpack(path, target)
        # A link's attributes are those of every member of its archive.
        others = [note for note in notes if not note.startswith("JSA.pth")]
        assert f"JSA.pth {reason}; ignored" in notes
        assert not (target / "JSA.pth").exists()
        if reason not in ("is a link", "is a pipe", "is in the archive twice"):
            assert others == []
            assert contents(target) == {"submission.py": b"1"}
        for file in target.iterdir():
            file.unlink()


def test_a_size_is_what_was_read(tmp_path, target):
    text = b"0123456789abcdef" * (1 << 17)  # 2 MiB
    random = os.urandom(2 << 20)
    path = make_zip(tmp_path / "u.zip", [("log_JSA.csv", text), ("submission.py", random)])
    patch_directory(path, 24, struct.pack("<L", 5))  # "5 bytes"
    notes = unpack(path, target)
    assert sorted(notes) == [
        "log_JSA.csv is larger than 1 MiB; ignored",
        "submission.py is damaged or cannot be read; ignored",
    ]
    path = make_zip(tmp_path / "v.zip", [("submission.py", b"short")])
    patch_directory(path, 24, struct.pack("<L", 0xFFFFFF00))  # "4 GiB"
    assert unpack(path, target) == []
    assert contents(target) == {"submission.py": b"short"}


def test_unusable_uploads(tmp_path, target):
    good = make_zip(tmp_path / "good.zip", [("submission.py", os.urandom(5000))])
    cut, text, link, pipe = (tmp_path / name for name in ("cut.zip", "t.zip", "l.zip", "p.zip"))
    cut.write_bytes(good.read_bytes()[:-30])
    text.write_text("Rar!")
    link.symlink_to(good)
    os.mkfifo(pipe)
    many = make_zip(tmp_path / "many.zip", [(str(i), b"") for i in range(10_001)])
    huge = tmp_path / "huge.zip"
    with huge.open("wb") as file:
        file.truncate((256 << 20) + 1)
    reasons = {cut: "damaged", text: "not a zip file", link: "is a link", pipe: "is a pipe"}
    reasons |= {many: "more than 10,000 entries", huge: "larger than 256 MiB"}
    reasons |= {tmp_path / "gone.zip": "cannot be opened"}
    for path, reason in reasons.items():
        with pytest.raises(UploadError, match=f"^the upload .*{reason}"):
            unpack(path, target)
        assert re.fullmatch("[0-9a-f]{64}", fingerprint(path))
        assert contents(target) == {}
    for path in (pipe, many):
        with pytest.raises(UploadError, match=r"^the upload "):
            uploads.unpack_limited(path, target)


def test_a_huge_directory_meets_the_limit_on_memory(tmp_path, target, monkeypatch):
    """Each entry of 47 bytes takes ten times as much memory; a smaller limit is met sooner."""
    count = 500_000
    eighth = uploads.CHILD.replace("unpacking.child", "unpacking.MEMORY >>= 3; unpacking.child")
    assert eighth != uploads.CHILD
    monkeypatch.setattr(uploads, "CHILD", eighth)
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, *[0] * 8, 1, *[0] * 6) + b"a"
    size = len(entry) * count
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, 0)
    end += struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1)
    end += struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)
    (tmp_path / "u.zip").write_bytes(entry * count + end)
    with pytest.raises(UploadError, match=r"memory|limits"):
        uploads.unpack_limited(tmp_path / "u.zip", target)


def test_a_hostile_folder(tmp_path, target):
    folder = tmp_path / "Eve"
    folder.mkdir()
    (folder / "submission.py").symlink_to("/etc/passwd")
    os.mkfifo(folder / "JSA.pth")
    (folder / "VAEwolabel.pth").mkdir()
    (folder / "log_JSA.csv").write_bytes(bytes((1 << 20) + 1))
    (folder / "log_VAEwolabel.csv").write_text("epoch\n")
    (folder / "elsewhere").symlink_to("/etc")
    assert sorted(unpack(folder, target)) == [
        "JSA.pth is a pipe; ignored",
        "VAEwolabel.pth is a folder; ignored",
        "log_JSA.csv is larger than 1 MiB; ignored",
        "submission.py is a link; ignored",
    ]
    assert contents(target) == {"log_VAEwolabel.csv": b"epoch\n"}


def test_a_child_that_dies_or_cannot_write(tmp_path, target, monkeypatch):
    path = make_zip(tmp_path / "u.zip", list(HONEST.items()))
    dies = "import sys, pathlib; pathlib.Path(sys.argv[3], 'JSA.pth').touch(); 1 / 0"
    monkeypatch.setattr(uploads, "CHILD", dies)
    with pytest.raises(UploadError, match="could not be read within the limits"):
        uploads.unpack_limited(path, target)
    assert contents(target) == {}
    monkeypatch.setattr(uploads, "CHILD", 'print(\'{"failure": "disk full"}\')')
    with pytest.raises(OSError, match="disk full"):
        uploads.unpack_limited(path, target)
    (target / "mine").touch()
    with pytest.raises(ValueError, match="not empty"):
        uploads.unpack_limited(path, target)


def test_fingerprint(tmp_path):
    folder = tmp_path / "Ana"
    folder.mkdir()
    (folder / "submission.py").write_text("1")
    seen = {fingerprint(folder)}
    (folder / "notes.txt").write_text("ignored")
    assert fingerprint(folder) in seen
    (folder / "submission.py").write_text("2")
    seen.add(fingerprint(folder))
    (folder / "JSA.pth").symlink_to("submission.py")
    seen.add(fingerprint(folder))
    archive = make_zip(tmp_path / "u.zip", [("submission.py", b"1")])
    seen.add(fingerprint(archive))
    for end in (archive, folder):
        link = tmp_path / f"to-{end.name}"
        link.symlink_to(end)
        seen.add(fingerprint(link))
    assert len(seen) == 6
    (tmp_path / "copy.zip").write_bytes(archive.read_bytes())
    assert fingerprint(tmp_path / "copy.zip") in seen
