"""Parameters come from the chapters' parameter cells, and are checked."""

import pytest

from latent_scattering import parameters, record
from latent_scattering.errors import ParameterError


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Two small chapters."""
    import jupytext

    cells = {
        "one": 'run: str = "a"  # name\n'
        "n: int = 3  # how many [1, 10]\n"
        "rate: float = 0.1  # step (0, 1]\n"
        "flag: bool = False  # yes or no\n"
        'kind: str = "code"  # which one {code, text}\n'
        "widths: list[int] = [1, 2]  # channels",
        "two": 'run: str = "a"  # name\nother: int = 0  # free [0, ]',
    }
    for name, source in cells.items():
        notebook = jupytext.reads(f"```python tags=['parameters']\n{source}\n```", "md")
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "language": "python",
            "display_name": "Python 3",
        }
        for suffix in ("md", "ipynb"):
            jupytext.write(notebook, tmp_path / f"{name}.{suffix}")
    monkeypatch.setattr(parameters.paths, "NOTEBOOKS", tmp_path)
    for function in (parameters.declared, parameters._model):
        function.cache_clear()
    yield
    for function in (parameters.declared, parameters._model):
        function.cache_clear()


def test_defaults_and_conversions(notebooks):
    values = parameters.validate("one", {"n": 7.0, "flag": "false", "rate": 1})
    assert values["n"] == 7 and isinstance(values["n"], int)
    assert values["flag"] is False  # papermill -p passes the word
    assert values["rate"] == 1.0
    assert values["widths"] == [1, 2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", -5, r"n = -5: .*greater than or equal to 1; allowed: int.*\[1, 10\]"),
        ("n", 11, r"less than or equal to 10"),
        ("n", "many", r"n = 'many': .*integer"),
        ("n", 2.5, r"n = 2.5: .*integer"),
        ("rate", 0, r"greater than 0"),
        ("rate", float("nan"), r"finite"),
        ("flag", "perhaps", r"flag = 'perhaps': .*boolean"),
        ("kind", "other", r"kind = 'other': .*'code' or 'text'"),
        ("widths", 3, r"widths = 3: .*list"),
        ("run", None, r"run = None"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(notebooks, name, value, message):
    with pytest.raises(ParameterError, match=message) as caught:
        parameters.validate("one", {name: value})
    assert "\n" not in str(caught.value)


def test_a_name_that_only_another_chapter_knows_is_passed_over(notebooks):
    assert "other" not in parameters.validate("one", {"other": 1})


def test_a_name_that_no_chapter_knows_is_refused(notebooks):
    with pytest.raises(ParameterError, match=r"ohter: no chapter .* mean other\?"):
        parameters.validate("one", {"ohter": 1})


@pytest.mark.parametrize("chapter", parameters.chapters())
def test_every_parameter_of_the_book_is_typed_and_explained(chapter):
    for name, parameter in parameters.declared(chapter).items():
        assert parameter["inferred_type_name"] in parameters.TYPES, name
        assert len(parameter["help"]) > 10, name
        numeric = parameter["inferred_type_name"] in ("int", "float")
        assert not numeric or parameters.INTERVAL.search(parameter["help"]), name
    default = parameters.validate(chapter, {})["run"]
    assert default == ("polygon5-32" if chapter == "ablations" else "digits")


@pytest.mark.parametrize("file", sorted(record.paths.RUNS.glob("*.yaml")))
def test_run_files_are_valid_and_name_themselves(file):
    assert record.load_run(file.stem)["run"] == file.stem
