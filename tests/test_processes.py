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


def curves(tmp_path, processes, variant):
    """The losses, and the errors after each epoch."""
    script, results = tmp_path / "train.py", tmp_path / f"{processes}.json"
    script.write_text(textwrap.dedent(SCRIPT))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    common |= {"WORLD_SIZE": str(processes), "TQDM_DISABLE": "1"}
    common |= {"PYTHONPATH": ":".join(sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(processes), variant, str(results)],
            env={**os.environ, **common, "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    assert [process.wait(180) for process in running] == [0] * processes
    return json.loads(results.read_text())


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
