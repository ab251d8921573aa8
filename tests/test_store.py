import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import safetensors
import torch

from latent_scattering import digest, store
from latent_scattering.errors import ArtefactError
from latent_scattering.store import MANIFEST, TENSORS, Store


class Making:
    """A maker that counts its calls, and says it is defined in the package."""

    __module__ = "latent_scattering.metrics"

    def __init__(self, value=1.0, error=None):
        self.calls, self.value, self.error = 0, value, error

    def __call__(self, work):
        self.calls += 1
        if self.error:
            raise self.error
        return {"x": torch.full((3, 2), self.value)}, {"note": "é", "psnr": 21.5}


@pytest.fixture
def kept(tmp_path):
    return Store(tmp_path)


def visible(folder):
    """Names of all that is in a folder, but for locks."""
    return {f.name for f in folder.iterdir() if f.suffix != ".lock"}


def test_is_made_once(kept):
    make = Making()
    first = kept.get("stage", {"a": 1}, make, inputs=["k"])
    second = Store(kept.root).get("stage", {"a": 1}, make, inputs=["k"])
    assert make.calls == 1
    assert first.key == second.key
    assert torch.equal(second.tensors["x"], torch.ones(3, 2))
    assert second.record == {"note": "é", "psnr": 21.5}
    assert second.seconds == first.seconds > 0
    assert visible(kept.root / "stage") == {first.key}
    assert visible(kept.root / "stage" / first.key) == {TENSORS, MANIFEST}


def test_key_is_of_stage_parameters_and_inputs(kept):
    make = Making()
    keys = {
        kept.get(stage, parameters, make, inputs=inputs).key
        for stage, parameters, inputs in [
            ("stage", {"a": 1, "b": 2}, ["k"]),
            ("stage", {"b": 2, "a": 1}, ["k"]),  # the same
            ("other", {"a": 1, "b": 2}, ["k"]),
            ("stage", {"a": 1, "b": 3}, ["k"]),
            ("stage", {"a": 1, "b": 2}, ["l"]),
            ("stage", {"a": 1, "b": 2}, []),
        ]
    }
    assert make.calls == len(keys) == 5


def edited(monkeypatch, module, edit):
    source = digest._source

    def changed(name):
        return edit(source(name)) if name == module else source(name)

    monkeypatch.setattr(digest, "_source", changed)


@pytest.mark.parametrize(
    ("module", "edit", "calls"),
    [
        ("metrics", lambda text: text.replace("PEAK = 2.0", "PEAK = 1.0"), 2),
        ("metrics", lambda text: text + "\n# a comment\n", 1),
        ("training", lambda text: text + "\nX = 1\n", 1),  # metrics does not import it
    ],
)
def test_is_made_again_when_its_code_changes(kept, monkeypatch, module, edit, calls):
    make = Making()
    kept.get("stage", {}, make)
    edited(monkeypatch, f"latent_scattering.{module}", edit)
    kept.get("stage", {}, make)
    assert make.calls == calls


@pytest.mark.parametrize(("module", "calls"), [("training", 2), ("store", 1)])
def test_code_is_that_of_imported_modules_too(kept, monkeypatch, module, calls):
    """But for the store's own, which keeps artefacts and does not make them."""
    make = Making()
    make.__module__ = "latent_scattering.inversion"
    kept.get("stage", {}, make)
    edited(monkeypatch, f"latent_scattering.{module}", lambda text: text + "\nX = 1\n")
    kept.get("stage", {}, make)
    assert make.calls == calls


def flip(folder):
    file = folder / TENSORS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def truncate(folder):
    file = folder / TENSORS
    file.write_bytes(file.read_bytes()[:-5])


def blank(folder):
    (folder / MANIFEST).write_text("")


def change(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("21.5", "22.5"))


def empty(folder):
    (folder / MANIFEST).write_text("{}")


def strip(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["record"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [flip, truncate, blank, empty, strip, change])
def test_damage_is_noticed_reported_and_repaired(kept, damage, capsys):
    make = Making()
    made = kept.get("stage", {}, make)
    damage(kept.root / "stage" / made.key)
    again = kept.get("stage", {}, make)
    assert make.calls == 2
    assert torch.equal(again.tensors["x"], torch.ones(3, 2))
    assert again.record == made.record
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{made.key}: damaged (" in line
    assert line.endswith("it is made again")
    kept.get("stage", {}, make)
    assert make.calls == 2


def test_missing_file_is_made_again(kept):
    make = Making()
    made = kept.get("stage", {}, make)
    (kept.root / "stage" / made.key / TENSORS).unlink()
    assert torch.equal(kept.get("stage", {}, make).tensors["x"], made.tensors["x"])
    assert make.calls == 2


def test_work_folder_survives_an_interruption(kept):
    def make(work):
        (work / "progress").write_text("half")
        raise KeyboardInterrupt

    def then(work):
        assert (work / "progress").read_text() == "half"
        return {}, {}

    make.__module__ = then.__module__ = "latent_scattering.metrics"
    with pytest.raises(KeyboardInterrupt):
        kept.get("stage", {}, make)
    made = kept.get("stage", {}, then)
    assert visible(kept.root / "stage") == {made.key}


@pytest.mark.parametrize("function", ["save_file", "_checksum"])
def test_interrupted_writing_leaves_the_old_or_nothing(tmp_path, monkeypatch, function):
    folder = tmp_path / "stage" / "key"
    old = {"x": torch.zeros(2)}
    for before in (False, True):
        if before:
            store.write(folder, old, {"n": 1})
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

            def interrupt(*arguments):
                raise KeyboardInterrupt

            patch.setattr(store, function, interrupt)
            store.write(folder, {"x": torch.ones(2)}, {"n": 2})
        assert visible(tmp_path / "stage") == ({"key"} if before else set())
    tensors, manifest = store.read(folder)
    assert torch.equal(tensors["x"], old["x"])
    assert manifest["n"] == 1


def test_replaces_a_whole_and_clears_what_a_killed_process_left(tmp_path):
    folder = tmp_path / "key"
    store.write(folder, {"x": torch.zeros(2), "y": torch.zeros(1)}, {"n": 1})
    (tmp_path / ".key-abc").mkdir()
    (tmp_path / ".key-abc" / TENSORS).write_bytes(b"half")
    (tmp_path / ".other-abc").mkdir()
    store.write(folder, {"x": torch.ones(2)}, {"n": 2})
    tensors, manifest = store.read(folder)
    assert list(tensors) == ["x"]
    assert manifest["n"] == 2
    assert visible(tmp_path) == {"key", ".other-abc"}


def test_nothing_to_read(tmp_path, capsys):
    assert store.read(tmp_path / "none") is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
        (
            safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device "
                "(os error 28)"
            ),
            "No space left on device",
        ),
    ],
)
def test_full_disk_is_one_line(kept, monkeypatch, error, words):
    def refuse(*arguments):
        raise error

    make = Making()
    with monkeypatch.context() as patch, pytest.raises(ArtefactError) as caught:
        patch.setattr(store, "save_file", refuse)
        kept.get("stage", {}, make)
    message = str(caught.value)
    assert words in message
    assert "LATENT_SCATTERING_CACHE" in message
    assert "\n" not in message
    assert kept.get("stage", {}, make).tensors  # nothing half-written is in the way


def test_really_full_disk_is_recognised(kept):
    """What safetensors says of a full device (`/dev/full`, where there is one)."""
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is Linux's")
    refused = pytest.raises(ArtefactError, match="No space left on device")
    with refused, store.writing(kept.root):
        Path("/dev/full").write_bytes(b"x" * 100_000)


def test_a_file_where_the_folder_should_be_is_told(tmp_path):
    (tmp_path / "cache").touch()
    told = pytest.raises(ArtefactError, match="set LATENT_SCATTERING_CACHE to another")
    with told, store.writing(tmp_path / "cache" / "stage" / "key"):
        (tmp_path / "cache" / "stage").mkdir(parents=True)
    # What a maker misses elsewhere is another matter.
    with pytest.raises(FileNotFoundError), store.writing(tmp_path / "cache"):
        (tmp_path / "data").read_bytes()


def test_code_outside_the_package_is_refused(kept):
    """Its changes would go unnoticed."""
    with pytest.raises(ModuleNotFoundError, match="__main__"):
        make = Making()
        make.__module__ = "__main__"
        kept.get("stage", {}, make)


def test_other_errors_pass_through(kept):
    with pytest.raises(ZeroDivisionError):
        kept.get("stage", {}, Making(error=ZeroDivisionError()))


def make_slowly(work):
    with (work.parent / "calls").open("a") as calls:
        calls.write("x")
    time.sleep(0.5)
    return {"x": torch.ones(1)}, {}


make_slowly.__module__ = "latent_scattering.metrics"


def ask(root, results):
    results.put(Store(root).get("stage", {}, make_slowly).key)


def test_two_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=ask, args=(tmp_path, results)) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert results.get() == results.get()
    assert (tmp_path / "stage" / "calls").read_text() == "x"


def test_state_is_what_loads(tmp_path):
    module = torch.nn.BatchNorm2d(3)
    module(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    store.write(tmp_path / "key", store.state(module), {})
    twin = torch.nn.BatchNorm2d(3)
    twin.load_state_dict(store.read(tmp_path / "key")[0])
    assert torch.equal(twin.running_mean, module.running_mean)
    assert int(twin.num_batches_tracked) == 1
