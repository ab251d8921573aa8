"""The book's figures: one style, and images in a grid."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

WIDTH = 7.0  # of a figure, in inches: the text's width at 100 dots an inch
PALETTE = sns.color_palette("colorblind")


def use_style() -> None:
    """Set the style of all figures: legible on a phone, safe for the colour-blind."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        rc={
            "figure.figsize": (WIDTH, 0.5 * WIDTH),
            "figure.dpi": 144,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.grid": True,
            "grid.color": "0.9",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 11,
            "legend.frameon": False,
            "image.cmap": "gray",
        },
    )


def show_images(
    images: Float[Tensor, "n c M N"],
    *,
    columns: int,
    rows: Sequence[str] = (),
    titles: Sequence[str] = (),
    width: float = WIDTH,
) -> None:
    """Draw images on [-1, 1] in a grid, row by row.

    Parameters
    ----------
    images
        Grey (c = 1) or colour (c = 3); values outside [-1, 1] are clipped.
    columns
        Images a row.
    rows, titles
        Labels of the rows, titles of the columns.
    width
        Of the figure, in inches.
    """
    n_rows = -(-len(images) // columns)
    aspect = images.shape[-2] / images.shape[-1]
    _, axes = plt.subplots(
        n_rows,
        columns,
        figsize=(width, width / columns * aspect * n_rows + 0.3 * bool(titles)),
        squeeze=False,
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        sns.despine(ax=ax, left=True, bottom=True)
    for ax, image in zip(axes.flat, images, strict=False):
        show_image(ax, image)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=10)
    for ax, label in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    plt.show()


def show_image(ax: Axes, image: Float[Tensor, "c M N"]) -> None:
    """Draw one image on [-1, 1] on given axes."""
    unit = (image.detach().cpu().clamp(-1, 1) + 1) / 2
    if len(unit) == 1:
        ax.imshow(unit[0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        ax.imshow(unit.permute(1, 2, 0).numpy())
