"""Digests change with what code computes, and not with how it is written."""

import pytest

from latent_scattering import digest

SOURCE = '''
"""A module."""
import numpy as np

def f(x: int = 1) -> int:
    """Add."""
    return x + 1  # one
'''


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("# one", "# another comment"),
        SOURCE.replace('"""Add."""', '"""Another docstring,\n    longer."""'),
        SOURCE.replace("x + 1", "(\n        x  +  1\n    )"),
        SOURCE.replace('"""A module."""\n', ""),
    ],
)
def test_code_digest_ignores_comments_docstrings_and_formatting(same):
    assert same != SOURCE
    assert digest.of_code(same) == digest.of_code(SOURCE)


@pytest.mark.parametrize(
    "other", ["x + 2", "x - 1", "x + 1.0", "x + True", "y + 1", "x + '1'"]
)
def test_code_digest_changes_with_the_code(other):
    changed = SOURCE.replace("x + 1", other)
    assert digest.of_code(changed) != digest.of_code(SOURCE)


def test_json_digest_does_not_depend_on_the_order_of_keys():
    assert digest.of_json({"a": 1, "b": 2}) == digest.of_json({"b": 2, "a": 1})
    assert digest.of_json({"a": 1}) != digest.of_json({"a": 2})
    with pytest.raises(ValueError):
        digest.of_json({"a": float("nan")})


def test_imports_resolve_submodules_and_attributes():
    found = digest.imports(
        "from latent_scattering import store, __version__\n"
        "from latent_scattering.errors import DataError\nimport numpy.linalg as l\n"
    )
    assert found == {
        "latent_scattering.store",
        "latent_scattering",
        "latent_scattering.errors",
        "numpy.linalg",
    }


def test_closure_follows_imports_and_nothing_else():
    reached = digest.closure(["latent_scattering.embedding"])
    assert "latent_scattering.scattering" in reached
    assert "latent_scattering.wavelets" in reached  # by way of scattering
    assert "latent_scattering.generator" not in reached
    assert "latent_scattering.store" not in reached  # it only keeps


def test_embedding_and_inversion_do_not_depend_on_the_reading_of_data():
    # A new data set must not make a trained network stale.
    reached = digest.closure(["latent_scattering.inversion"])
    assert not [name for name in reached if "datasets" in name]


def test_package_digest_changes_with_an_indirect_import(monkeypatch):
    before = digest.of_package(["latent_scattering.embedding"])
    source = digest._source
    monkeypatch.setattr(
        digest,
        "_source",
        lambda name: source(name) + ("\nX = 1\n" if name.endswith(".wavelets") else ""),
    )
    assert digest.of_package(["latent_scattering.embedding"]) != before


def test_lock_digest_counts_the_pins_that_are_imported(monkeypatch):
    def with_pins(**changed):
        pins = {"numpy": "2", "sympy": "1", "ruff": "1"} | changed
        monkeypatch.setattr(digest, "_pins", lambda: pins)
        return digest.of_lock([], "import torch")

    first = with_pins()
    assert with_pins(ruff="2") == first  # not imported
    assert with_pins(sympy="2") != first  # required by what is imported
