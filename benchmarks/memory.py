"""The memory that whitening takes at the size of Angles & Mallat.

    python -m benchmarks.memory [--threads 2] [--json FILE]

Takes half an hour on two cores, and 14 GB of a disk, 3 of them to stay: the images.

`embedding.fit` of generated colour images, from pixels to components, once, in a
process of its own: how long it takes, and by how much the most memory exceeds that
before it. The coefficients are in a file; what the system keeps of it in free memory
does not count. On a GPU, where they stay on it, all counts.
"""

import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import side_by_side
from latent_scattering import datasets, embedding
from latent_scattering.store import Store

CUDA = side_by_side.DEVICE.type == "cuda"
J, D = 4, 512
CASES = (4_096, 65_536)
STATUS = Path("/proc/self/status")  # of Linux


class Watch(threading.Thread):
    """Looks at the process's own memory, in bytes, ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = self.now()
        self.over = threading.Event()

    @staticmethod
    def now() -> int:
        """Return what it is at present."""
        line = next(x for x in STATUS.read_text().splitlines() if "RssAnon" in x)
        return 1024 * int(line.split()[1])

    def run(self) -> None:
        """Look, until it is over."""
        while not self.over.wait(0.1):
            self.most = max(self.most, self.now())


def fit(pixels: Tensor, folder: Path) -> None:
    embedding.fit(pixels, "", J=J, L=8, d=D, store=Store(folder))


def measure(n: int) -> dict:
    pixels = datasets.load("polygon5", "train", n=n).pixels
    watch = Watch()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        watch.start()
        taken = side_by_side.once(lambda: fit(pixels, Path(folder)))
        watch.over.set()
    most = torch.cuda.max_memory_allocated() if CUDA else watch.most - watch.before
    return {"images": n, "d": D, "seconds": taken, "memory": most}


def main() -> None:
    given = side_by_side.arguments(__doc__, 600)
    alone = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}
    threads = {"initializer": torch.set_num_threads, "initargs": (given.threads,)}
    with ProcessPoolExecutor(1, **alone, **threads) as pool:
        results = list(pool.map(measure, CASES))
    table = [
        {
            "case": f"{r['images']:,} images of 3×128×128, d={D}",
            "seconds": r["seconds"],
            "images/s": r["images"] / r["seconds"],
            "memory, GiB": r["memory"] / 2**30,
        }
        for r in results
    ]
    side_by_side.report(given, results, table, ("", ".0f", ".0f", ".2f"))


if __name__ == "__main__":
    main()
