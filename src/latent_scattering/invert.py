"""Train a run's generator on several devices, before its chapters are executed.

Command line: ``python -m latent_scattering.invert RUN [--devices N]``. The chapter on
the inversion, which knows one device, then finds it where artefacts are kept.
"""

import argparse
import io
import sys
from contextlib import nullcontext, redirect_stderr

import torch
from lightning_fabric import Fabric

from latent_scattering import datasets, embedding, inversion, parameters, record
from latent_scattering.errors import UserError
from latent_scattering.store import Store


def invert(run: str, fabric: Fabric) -> inversion.Inversion:
    """Return the generator of the run's chapter ``inversion``, of one key with it.

    Raises
    ------
    ParameterError
        If there is no such run, or a value is refused.
    TrainingError
        If the training diverges.
    """
    given = parameters.validate("inversion", record.load_run(run))
    store = Store()
    train = datasets.load(given["dataset"], "train", n=given["n_train"])
    test = datasets.load(given["dataset"], "test", n=given["n_test"])
    sizes = {"J": given["J"], "L": given["L"], "d": given["n_components"]}
    phi = embedding.fit(train.pixels, train.digest, **sizes, store=store)
    codes = [
        embedding.embed(phi, part.pixels, part.digest, store=store)
        for part in (train, test)
    ]
    return inversion.fit(
        (train.pixels, codes[0]),
        (test.pixels, codes[1]),
        variant=given["variant"],
        n_epochs=given["n_epochs"],
        batch_size=given["batch_size"],
        learning_rate=given["learning_rate"],
        patience=given["patience"],
        seed=given["seed"],
        fabric=fabric,
        store=store,
        inputs=[phi.key, train.digest, test.digest],
    )


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m latent_scattering.invert")
    parser.add_argument("run")
    parser.add_argument(
        "--devices",
        type=int,
        default=max(torch.cuda.device_count(), 1),
        help="a process each; by default all GPUs, or one CPU",
    )
    given = parser.parse_args()
    if given.devices < 1:
        parser.error(f"--devices {given.devices}: at least 1 is allowed")
    fabric = inversion.fabric_of(given.devices)
    first = fabric.is_global_zero  # which speaks for all
    with nullcontext() if first else redirect_stderr(io.StringIO()):
        try:
            fabric.launch()
            inverse = invert(given.run, fabric)
        except UserError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            return 130
    if first:
        last = inverse.history.iloc[-1]
        print(
            f"{given.run}: {last.psnr_test:.1f} dB held out after {last.epoch:.0f} "
            f"epochs, {inverse.images_per_second:,.0f} images/s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
