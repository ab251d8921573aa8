"""What a chapter says to the book: its numbers, tables, claims and provenance."""

import datetime
import json
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import myst_nb
import pandas as pd
import torch
from IPython.display import Markdown, display

from latent_scattering import figures, parameters, paths
from latent_scattering.errors import UserError
from latent_scattering.store import Store

# The output by which a chapter hands its results to `record`.
MIME = "application/vnd.latent-scattering+json"
VERSIONS = ("torch", "numpy", "scipy", "scikit-learn", "jupyter-book", "papermill")

Verdict = Literal["reproduced", "partly", "not reproduced", "cannot be tested here"]


class VerificationError(UserError, AssertionError):
    """A number differs from the recorded one by more than its tolerance."""


class Chapter:
    """A chapter while it runs.

    Parameters
    ----------
    name
        The chapter's name, that of its notebook.
    namespace
        The notebook's variables, ``locals()``: its parameters are validated and
        converted in place.

    Raises
    ------
    ParameterError
        See `parameters.validate`.

    Attributes
    ----------
    parameters
        The values in force, by name.
    run
        The run's name, a prefix of the labels of tables.
    store
        Where artefacts are kept.
    device
        The processor that computes: CUDA's where there is one.
    """

    def __init__(self, name: str, namespace: dict[str, Any]) -> None:
        self._start = time.perf_counter()
        given = {
            key: value
            for key, value in namespace.items()
            if isinstance(value, str | int | float | list | dict | None)
            and not key.startswith("_")
            and key not in ("In", "Out")
        }
        self.name = name
        self.parameters = parameters.validate(name, given)
        namespace.update(self.parameters)
        self.run: str = self.parameters["run"]
        self.store = Store()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._numbers: dict[str, dict[str, Any]] = {}
        self._claims: list[dict[str, str]] = []
        figures.use_style()
        inside = self.store.root.is_relative_to(paths.ROOT)
        cache = self.store.root.relative_to(paths.ROOT) if inside else "elsewhere"
        print(
            f"run {self.run} · data {self.parameters['dataset']} · "
            f"device {device_name(self.device)} · cache {cache}"
        )

    def number(
        self,
        key: str,
        value: float,
        *,
        digits: int = 0,
        unit: str = "",
        tolerance: float | None = None,
    ) -> None:
        """Keep a number for the prose (``{glue:text}`key```) and for the results.

        Parameters
        ----------
        key
            Its name, unique in the chapter.
        value
            Finite.
        digits
            Decimals that are shown.
        unit
            Shown behind it.
        tolerance
            By how much it may differ from the record on another processor, in its
            unit; one unit of the last decimal by default.

        Raises
        ------
        VerificationError
            Where ``LATENT_SCATTERING_VERIFY`` is set, if it differs by more.
        """
        value = float(value)
        text = _typeset(f"{value:,.{digits}f}" + (f" {unit}" if unit else ""))
        self._numbers[key] = {"value": value, "text": text}
        myst_nb.glue(key, text, display=False)
        if os.environ.get("LATENT_SCATTERING_VERIFY"):
            self._verify(key, value, 10.0**-digits if tolerance is None else tolerance)

    def _verify(self, key: str, value: float, tolerance: float) -> None:
        file = paths.BOOK / self.run / "results" / f"{self.name}.json"
        results = json.loads(file.read_text(encoding="utf-8"))
        recorded = results["numbers"][key]["value"]
        if not abs(value - recorded) <= tolerance:
            raise VerificationError(
                f"{key} = {value:g} here, {recorded:g} in the record of {self.run}; "
                f"a difference of {tolerance:g} is allowed"
            )

    def table(self, name: str, caption: str, table: pd.DataFrame) -> None:
        """Show a numbered table, its label ``<run>-<name>``; cells are MyST.

        Negative numbers get a minus sign in the place of a hyphen, here and in claims.
        """
        cells = table.astype(str).replace(r"\|", r"\\|", regex=True).map(_typeset)
        text = cells.to_markdown(index=False, disable_numparse=True)
        display(
            Markdown(f"```{{table}} {caption}\n:name: {self.run}-{name}\n\n{text}\n```")
        )

    def claim(
        self,
        id: str,
        text: str,
        *,
        source: str,
        paper: str,
        measured: str,
        rule: str,
        verdict: Verdict,
    ) -> None:
        """Judge a claim of a paper.

        Parameters
        ----------
        id
            Its name, unique in the book.
        text
            The claim, in our words.
        source
            The paper and the place in it.
        paper, measured
            The paper's value, and ours.
        rule
            The rule by which the verdict was computed from the measurement.
        verdict
            The rule's outcome.
        """
        self._claims.append(
            {
                "id": id,
                "text": text,
                "source": source,
                "paper": paper,
                "measured": _typeset(measured),
                "rule": rule,
                "verdict": verdict,
            }
        )
        myst_nb.glue(f"verdict-{id}", verdict, display=False)

    def verdicts(self) -> None:
        """Show the claims judged so far as a table."""
        self.table(
            f"tab-{self.name}-claims",
            "The claims of the papers, and what was measured here.",
            pd.DataFrame(
                {
                    "Claim": [f"{c['text']} ({c['source']})" for c in self._claims],
                    "Paper": [c["paper"] for c in self._claims],
                    "Here": [c["measured"] for c in self._claims],
                    "Verdict": [c["verdict"] for c in self._claims],
                }
            ),
        )

    def close(self) -> None:
        """Show where all this comes from, and hand the results to the recorder."""
        provenance = {
            "parameters": self.parameters,
            "device": device_name(self.device),
            "processor": processor_name(),
            "seconds": round(time.perf_counter() - self._start, 1),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": commit(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in VERSIONS},
            },
        }
        seed = self.parameters.get("seed")
        line = (
            f"run {self.run} · commit {provenance['commit']} · "
            f"{'' if seed is None else f'seed {seed} · '}{provenance['device']} "
            f"({provenance['processor']}) · python {platform.python_version()}, "
            f"torch {torch.__version__} · {provenance['seconds']:.0f} s"
        )
        results = {
            "chapter": self.name,
            "run": self.run,
            "numbers": self._numbers,
            "claims": self._claims,
            "provenance": provenance,
        }
        display({"text/plain": line, MIME: results}, raw=True)


def verdict(*, reproduced: bool, partly: bool = False) -> Verdict:
    """Return the verdict of a two-step rule."""
    return "reproduced" if reproduced else "partly" if partly else "not reproduced"


def _typeset(text: str) -> str:
    """Return a text whose negative numbers have a minus sign, not a hyphen."""
    return re.sub(r"(?<![\w./-])-(?=[\d.])", "−", text)


def device_name(device: torch.device) -> str:
    """Return a device in words: a GPU's model, or the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    n = torch.get_num_threads()
    return f"CPU, {n} thread{'s' if n > 1 else ''}"


def processor_name() -> str:
    """Return the processor's model, or its architecture where that is not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Return the commit that the code was at, marked ``+`` where it had changes."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.ROOT), *words],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src", "notebooks", "runs")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
