"""What the benchmarks share: two competitors in turns, a table, a file."""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tabulate import tabulate
from threadpoolctl import threadpool_limits

from latent_scattering.report import device_name, processor_name

MAX_TURNS = 15
MIN_TURNS = 3  # but for those that take minutes
LONG = 300  # seconds after which no turn begins
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def once(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    if DEVICE.type == "cuda":  # which only begins what it is asked for
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(
    competitors: Mapping[str, Callable[[], object]], budget: float
) -> dict[str, float]:
    """Median seconds of each, called in turns in one process, within about `budget`.

    Three turns at least, unless five minutes have passed.
    """
    times: dict[str, list[float]] = {name: [] for name in competitors}
    begin = time.perf_counter()
    for turn in range(MAX_TURNS):
        past = time.perf_counter() - begin
        if past > max(budget, LONG) or (turn >= MIN_TURNS and past > budget):
            break
        for name, function in competitors.items():
            times[name].append(once(function))
    return {name: statistics.median(some) for name, some in times.items()}


def arguments(doc: str, seconds: float) -> argparse.Namespace:
    """Those of the command line; sets the number of threads."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help=f"rough length of the whole ({seconds:g})",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the results to this file")
    given = parser.parse_args()
    given.title = doc.partition("\n")[0].rstrip(".")
    torch.set_num_threads(given.threads)
    threadpool_limits(given.threads)  # those of numpy and scipy
    return given


def report(
    given: argparse.Namespace, cases: list[dict], table: list[dict], formats: tuple
) -> None:
    """Print the table, and the machine above it; write all to the file, if wanted.

    The file is what the book's page on performance is made from. A GPU's has a name of
    its own, so that both are shown.
    """
    machine = {
        "processor": processor_name(),
        "device": device_name(DEVICE),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    print("{processor}, {device}, torch {torch}\n".format(**machine))
    print(tabulate(table, headers="keys", floatfmt=formats), "\n")
    if given.json:
        rows = [
            {
                name: cell if isinstance(cell, str) else format(cell, style)
                for (name, cell), style in zip(row.items(), formats, strict=True)
            }
            for row in table
        ]
        content = {"title": given.title, "machine": machine, "rows": rows}
        text = json.dumps({**content, "cases": cases}, indent=1, ensure_ascii=False)
        given.json.parent.mkdir(parents=True, exist_ok=True)
        kind = f".{DEVICE.type}" if DEVICE.type != "cpu" else ""
        file = given.json.with_name(f"{given.json.stem}{kind}.json")
        file.write_text(text + "\n", encoding="utf-8")
