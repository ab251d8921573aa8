"""A training that is shared among processes is the training of one."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import json, sys
import torch
from lightning_fabric import Fabric
from latent_scattering import training
from latent_scattering.generator import Generator

processes, variant, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
fabric = Fabric(
    accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto"
)
fabric.launch()
noise = torch.Generator().manual_seed(0)
z = torch.randn(64, 6, generator=noise)
images = torch.tanh(torch.randn(64, 1, 8, 8, generator=noise))
G = Generator(6, (1, 8, 8), variant=variant, widths=(8, 4), kernel_size=3, seed=0)
history = training.fit(
    G,
    lambda model, batch, noise: (model(batch[1]) - batch[0]).abs().mean(),
    (images, z),
    n_epochs=5,
    batch_size=16,
    seed=0,
    fabric=fabric,
    validate=lambda model: {"error": float((model(z) - images).abs().mean())},
)
if fabric.is_global_zero:
    with open(folder, "w") as file:
        json.dump(history[["loss", "error"]].to_dict("list"), file)
"""


INVERSION = """
import hashlib, json, sys
from pathlib import Path
import torch
from lightning_fabric import Fabric
from latent_scattering import inversion, training
from latent_scattering.store import Store

processes, variant, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
torch.set_num_threads(1)
fabric = inversion.fabric_of(processes)
fabric.launch()
noise = torch.Generator().manual_seed(0)
z = torch.randn(64, 6, generator=noise)
pixels = torch.randint(0, 256, (64, 1, 8, 8), generator=noise, dtype=torch.uint8)
trained = []
fit = training.fit
training.fit = lambda *some, **more: trained.append(1) or fit(*some, **more)
for _ in range(2):  # made, and found
    made = inversion.fit(
        (pixels, z), (pixels[:16], z[:16]), variant=variant, n_epochs=4, batch_size=16,
        seed=0, fabric=fabric, store=Store(folder.with_suffix(".store")), inputs=[],
    )
weights = torch.cat([w.flatten() for w in made.generator.parameters()])
digest = hashlib.sha256(weights.detach().numpy().tobytes()).hexdigest()
numbers = {
    "loss": list(made.history.loss), "psnr": list(made.history.psnr_test),
    "key": made.key, "processes": made.processes, "trained": len(trained),
    "weights": digest, "speed": made.images_per_second, "share": made.share_of_peak,
}
file = folder.with_suffix(f".{fabric.global_rank}.json")
file.write_text(json.dumps(numbers))
"""


def curves(tmp_path, processes, variant):
    """The losses, and the errors after each epoch."""
    results = tmp_path / f"{processes}.json"
    run(SCRIPT, tmp_path, processes, variant, results)
    return json.loads(results.read_text())


def run(source, tmp_path, processes, *arguments):
    """Run a script in as many processes, which learn of each other by Fabric."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(source))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    common |= {"WORLD_SIZE": str(processes), "TQDM_DISABLE": "1"}
    common |= {"PYTHONPATH": ":".join(sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(processes), *map(str, arguments)],
            env={**os.environ, **common, "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    try:
        assert [process.wait(180) for process in running] == [0] * processes
    finally:
        for process in running:
            process.kill()


@pytest.mark.parametrize(
    # Without batch norm the gradients are the same but for rounding; batch norm takes
    # its statistics of each process's share of a batch, here of 8 images instead of 16.
    ("variant", "tolerance"),
    [("text", 1e-4), ("code", 0.05)],
)
def test_two_processes_learn_what_one_learns(variant, tolerance, tmp_path):
    one, two = (curves(tmp_path, processes, variant) for processes in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=tolerance)
    assert two["error"] == pytest.approx(one["error"], rel=tolerance)
    assert one["error"][-1] < one["error"][0]


def test_two_processes_share_an_inversion_which_one_finds(tmp_path):
    folder = tmp_path / "inversion"
    run(INVERSION, tmp_path, 2, "text", folder)
    first, second = (
        json.loads(folder.with_suffix(f".{rank}.json").read_text()) for rank in (0, 1)
    )
    assert first == second  # the weights, too
    assert (first["processes"], first["trained"]) == (2, 1)
    assert first["speed"] > 0 < first["share"] < 1
    run(INVERSION, tmp_path, 1, "text", folder)
    found = json.loads(folder.with_suffix(".0.json").read_text())
    assert found["trained"] == 0
    assert found == {**first, "trained": 0}
    run(INVERSION, tmp_path, 1, "text", tmp_path / "alone")
    alone = json.loads((tmp_path / "alone.0.json").read_text())
    assert (alone["key"], alone["processes"]) == (first["key"], 1)
    assert alone["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert alone["psnr"] == pytest.approx(first["psnr"], rel=1e-3)
