"""Records are stamped, go stale when they should, and are written whole."""

import json

import jupytext
import nbformat
import pytest
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_output
from papermill.exceptions import PapermillExecutionError

from latent_scattering import digest, parameters, paths, record
from latent_scattering.errors import ParameterError
from latent_scattering.report import MIME

SOURCE = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# One

See {numref}`fig-one`, {eq}`eq-one` and `config-file`.

$$ a $$ (eq-one)

```{code-cell} ipython3
:tags: [parameters]

run: str = "small"  # name of the run
n: int = 1  # how many [0, 9]
```

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-one
    caption: As in {numref}`fig-one`.
---
from latent_scattering import figures
n + 1
```
"""


TOC = "parts: [{caption: 'Run: Small', chapters: [{file: book/small/one}]}]"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A book of one chapter and one run, recorded."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "_toc.yml").write_text(TOC)
    for name in ("NOTEBOOKS", "RUNS", "BOOK"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    parameters.declared.cache_clear()
    parameters._model.cache_clear()
    write_source(SOURCE)
    (paths.RUNS / "small.yaml").write_text("run: small\nn: 2\n")
    fake_record()
    yield tmp_path
    parameters.declared.cache_clear()
    parameters._model.cache_clear()


def write_source(text):
    (paths.NOTEBOOKS / "one.md").write_text(text)
    jupytext.write(jupytext.reads(text, "md:myst"), paths.NOTEBOOKS / "one.ipynb")
    parameters.declared.cache_clear()


def fake_record():
    notebook = record.read_source("one")
    notebook.cells[-1].outputs = [
        new_output("stream", name="stderr", text="noise"),
        new_output("display_data", {"text/plain": "3", MIME: {"numbers": {}}}),
    ]
    notebook.metadata["papermill"] = {"input_path": "somewhere"}
    results = record._results(notebook)
    record._tidy(notebook, "small")
    record._write(paths.BOOK / "small" / "one.ipynb", nbformat.writes(notebook) + "\n")
    results["stamp"] = record.stamp("small", "one")
    record._write(paths.BOOK / "small/results/one.json", json.dumps(results))


def test_labels_are_prefixed_and_machine_traces_dropped(house):
    notebook = nbformat.read(paths.BOOK / "small" / "one.ipynb", as_version=4)
    text = notebook.cells[0].source
    assert "{numref}`small-fig-one`, {eq}`small-eq-one` and `config-file`" in text
    assert "(small-eq-one)" in text
    figure = notebook.cells[-1].metadata["mystnb"]["figure"]
    assert figure["name"] == "small-fig-one"
    assert figure["caption"] == "As in {numref}`small-fig-one`."
    assert "papermill" not in notebook.metadata
    (output,) = notebook.cells[-1].outputs
    assert output["data"] == {"text/plain": "3"}


def test_a_record_is_fresh_until_what_it_computes_may_have_changed(house, monkeypatch):
    assert record.freshness("small", "one") == []
    write_source(SOURCE.replace("# One", "# Another title").replace("n + 1", "n+1 # x"))
    assert record.freshness("small", "one") == []
    write_source(SOURCE.replace("n + 1", "n + 2"))
    assert record.freshness("small", "one") == ["code"]
    write_source(SOURCE)
    (paths.RUNS / "small.yaml").write_text("run: small\nn: 3\n")
    assert record.freshness("small", "one") == ["parameters"]
    (paths.RUNS / "small.yaml").write_text("run: small\nn: 2\n")
    source = digest._source
    monkeypatch.setattr(digest, "_source", lambda name: source(name) + "\nX = 1\n")
    assert record.freshness("small", "one") == ["package"]


def test_a_missing_or_damaged_record_is_stale(house):
    (paths.BOOK / "small/results/one.json").write_text("{")
    assert record.freshness("small", "one") == ["no readable record"]
    assert record.freshness("small", "two") == ["no readable record"]


def test_check_fails_on_a_stale_record(house, capsys):
    assert record._check(None) == 0
    write_source(SOURCE.replace("n + 1", "n + 2"))
    assert record._check("small") == 1
    assert "small/one: stale: code" in capsys.readouterr().out
    (paths.RUNS / "other.yaml").write_text("run: other")
    assert record._check("other") == 0


def test_check_fails_on_a_missing_record_and_an_unknown_run(house, capsys):
    (paths.BOOK / "small" / "results" / "one.json").unlink()
    assert record._check("small") == 1
    assert "small/one: stale: no readable record" in capsys.readouterr().out
    with pytest.raises(ParameterError, match="no such run; allowed: small"):
        record._check("smal")


@pytest.mark.parametrize("stamp", [[], 1, None])
def test_a_record_with_a_damaged_stamp_is_stale(house, stamp):
    file = paths.BOOK / "small" / "results" / "one.json"
    file.write_text(json.dumps({"stamp": stamp}))
    assert record.freshness("small", "one")


def stopped_by(error, monkeypatch):
    """What is said of a chapter that stops on an error, and how far it came."""

    def executed(given, taken, *arguments, **named):
        nbformat.write(nbformat.read(given, as_version=4), taken)
        raise error

    monkeypatch.setattr(record.papermill, "execute_notebook", executed)
    with pytest.raises(record.ChapterError) as caught:
        record.execute("small", "one")
    assert "\n" not in str(caught.value)
    return str(caught.value), paths.ROOT / "build" / "failed" / "small" / "one.ipynb"


@pytest.mark.parametrize(
    ("name", "kept"), [("KeyError", True), ("ParameterError", False)]
)
def test_of_an_unexpected_error_the_notebook_is_kept(house, monkeypatch, name, kept):
    error = PapermillExecutionError(1, 1, "n + 1", name, "n: no", [])
    said, notebook = stopped_by(error, monkeypatch)
    assert f"small/one: {name}: n: no" in said
    assert notebook.exists() == (str(notebook) in said) == kept


def test_a_killed_kernel_is_told_in_one_line(house, monkeypatch):
    said, _ = stopped_by(DeadKernelError("Kernel died"), monkeypatch)
    assert said.startswith("small/one: its process was killed")


def test_refresh_carries_prose_and_keeps_outputs(house):
    assert not record.refresh("small", "one")
    write_source(SOURCE.replace("# One", "# Another title, {numref}`fig-one`"))
    assert record.refresh("small", "one")
    notebook = nbformat.read(paths.BOOK / "small" / "one.ipynb", as_version=4)
    assert "# Another title, {numref}`small-fig-one`" in notebook.cells[0].source
    assert notebook.cells[-1].outputs[0]["data"] == {"text/plain": "3"}
    assert record.freshness("small", "one") == []


def test_refresh_leaves_a_stale_record_alone(house):
    before = (paths.BOOK / "small" / "one.ipynb").read_text()
    write_source(SOURCE.replace("# One", "# Two").replace("n + 1", "n + 2"))
    assert not record.refresh("small", "one")
    assert (paths.BOOK / "small" / "one.ipynb").read_text() == before


def test_unknown_names_are_refused_with_what_is_allowed(house):
    with pytest.raises(ParameterError, match=r"big: there is no such run; .*small"):
        record.load_run("big")
    with pytest.raises(ParameterError, match="two: no such chapter; allowed: one"):
        record.read_source("two")
    (paths.RUNS / "bad.yaml").write_text("run: bad\nmm: 3\n")
    with pytest.raises(ParameterError, match="mm: no chapter has this parameter"):
        record.load_run("bad")
    (paths.RUNS / "list.yaml").write_text("- run\n")
    with pytest.raises(ParameterError, match=r"list\.yaml: must be"):
        record.load_run("list")


def test_an_interrupted_write_leaves_the_old_record(house, monkeypatch):
    file = paths.BOOK / "small" / "one.ipynb"
    before = file.read_text()
    monkeypatch.setattr(
        type(file), "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        record._write(file, "half")
    assert file.read_text() == before
    assert [f.name for f in file.parent.iterdir() if f.is_file()] == ["one.ipynb"]


def test_chapters_executed_side_by_side_have_sockets_of_their_own(house, monkeypatch):
    addresses = []

    def executed(given, taken, *arguments, config, **named):
        addresses.append(config.KernelManager.ip)
        return nbformat.read(paths.BOOK / "small" / "one.ipynb", as_version=4)

    monkeypatch.setattr(record.papermill, "execute_notebook", executed)
    monkeypatch.setattr(record, "_results", lambda notebook: {})
    for _ in range(2):
        record.execute("small", "one")
    assert len(set(addresses)) == 2
    # The length of a socket's address is limited, and a number is added.
    assert all(len(address) < 90 for address in addresses)
