"""One lock, and everything that installs uses it."""

import re
import tomllib
from importlib.metadata import metadata

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from latent_scattering import paths

PIN = re.compile(r"^[\w.-]+==[\w.]+$")


def pins() -> dict[str, str]:
    lines = paths.LOCK.read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pinned if not PIN.match(line)] == []
    return {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in pinned)
    }


def test_lock_pins_all_that_the_project_asks_for():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = project["dependencies"] + [name for extra in extras for name in extra]
    for line in asked:
        wanted = Requirement(line)
        version = pins()[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), line


def test_environment_installs_the_same_lock():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    others = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert [d.split("=")[0] for d in others] == ["python", "make", "pip"]


def test_lock_installs_on_the_oldest_python_that_is_promised():
    refused = [
        f"{name}: {python}"
        for name in pins()
        if (python := metadata(name)["Requires-Python"])
        and not SpecifierSet(python).contains("3.11.0")
    ]
    assert refused == []
