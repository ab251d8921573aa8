"""What a chapter hands to the book."""

import json

import pandas as pd
import pytest
import torch

from latent_scattering import paths, report
from latent_scattering.errors import ParameterError
from latent_scattering.report import Chapter, VerificationError, verdict


@pytest.fixture
def chapter(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "BOOK", tmp_path)
    return Chapter("inversion", {"seed": 3.0, "In": [], "_x": 1})


def test_parameters_are_converted_in_place():
    namespace = {"seed": 3.0, "dataset": "digits", "Chapter": Chapter, "len": len}
    chapter = Chapter("inversion", namespace)
    assert namespace["seed"] == 3 and isinstance(namespace["seed"], int)
    assert chapter.parameters["seed"] == 3


def test_an_unknown_variable_stops_the_chapter():
    with pytest.raises(ParameterError, match="n_componets: no chapter has"):
        Chapter("inversion", {"n_componets": 3})


def test_numbers_are_shown_as_a_reader_writes_them(chapter, monkeypatch):
    glued = {}
    monkeypatch.setattr(
        report.myst_nb, "glue", lambda key, text, display: glued.update({key: text})
    )
    chapter.number("a", 12345.678, digits=1, unit="dB")
    chapter.number("b", -0.5, digits=1)
    assert glued == {"a": "12,345.7 dB", "b": "−0.5"}


def test_numbers_are_verified_within_their_tolerance(chapter, monkeypatch):
    folder = paths.BOOK / chapter.run / "results"
    folder.mkdir(parents=True)
    recorded = {"numbers": {"a": {"value": 20.0, "text": "20"}}}
    (folder / f"{chapter.name}.json").write_text(json.dumps(recorded))
    monkeypatch.setenv("LATENT_SCATTERING_VERIFY", "1")
    chapter.number("a", 20.9, tolerance=1.0)
    chapter.number("a", 20.9)  # one unit of the last decimal
    with pytest.raises(VerificationError, match=r"a = 20.9 here, 20 in the record"):
        chapter.number("a", 20.9, digits=1)
    with pytest.raises(VerificationError):
        chapter.number("a", float("nan"), tolerance=1.0)


def test_tables_are_labelled_by_the_run(chapter, monkeypatch):
    shown = []
    monkeypatch.setattr(report, "display", shown.append)
    row = {"a": ["1.50"], "b": ["|x|"], "c": ["-.5 to -2, 1e-3"], "d": ["2026-11-28"]}
    chapter.table("tab-x", "A caption.", pd.DataFrame(row))
    text = shown[0].data
    assert text.startswith("```{table} A caption.\n:name: digits-tab-x\n\n|")
    assert "| 1.50" in text  # not reformatted
    assert r"\|x\|" in text  # a pipe would end the cell
    assert "−.5 to −2, 1e-3" in text  # minus signs, not hyphens
    assert "2026-11-28" in text


def test_results_hold_claims_and_provenance(chapter, monkeypatch):
    shown = []
    monkeypatch.setattr(report, "display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(report.myst_nb, "glue", lambda *_, **__: None)
    chapter.claim(
        "c", "Text.", source="s", paper="1", measured="-2", rule="r", verdict="partly"
    )
    chapter.close()
    results = json.loads(json.dumps(shown[0][report.MIME]))
    assert results["claims"][0]["verdict"] == "partly"
    assert results["claims"][0]["measured"] == "−2"
    assert results["provenance"]["parameters"]["seed"] == 3
    assert set(results["provenance"]["versions"]) >= {"python", "torch"}


def test_verdicts():
    assert verdict(reproduced=True, partly=True) == "reproduced"
    assert verdict(reproduced=False, partly=True) == "partly"
    assert verdict(reproduced=False) == "not reproduced"


def test_one_thread_is_not_threads(one_thread):
    cpu = torch.device("cpu")
    assert report.device_name(cpu) == "CPU, 1 thread"
    torch.set_num_threads(2)
    assert report.device_name(cpu) == "CPU, 2 threads"
