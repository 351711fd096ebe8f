"""Send pictures to the trackers that take them."""

import io
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# The folder or the group of pictures in a tracker.
GROUP = "pictures"

Pictures = Mapping[str, bytes]


def takes_pictures(name: str) -> bool:
    """Return whether pictures can be sent to the tracker of this name; all but MLflow's are sent by Pillow."""
    return name in SENDERS and (name == "mlflow" or find_spec("PIL") is not None)


def _to_tensorboard(writer: Any, pictures: Pictures, step: int) -> None:
    for name, image in _read(pictures).items():
        writer.add_image(f"{GROUP}/{name}", np.asarray(image), step, dataformats="HWC")


def _to_wandb(run: Any, pictures: Pictures, step: int) -> None:
    import wandb

    run.log({f"{GROUP}/{name}": wandb.Image(image) for name, image in _read(pictures).items()}, step=step)


def _to_trackio(run: Any, pictures: Pictures, step: int) -> None:
    import trackio

    run.log({f"{GROUP}/{name}": trackio.Image(image) for name, image in _read(pictures).items()}, step=step)


def _to_mlflow(run: Any, pictures: Pictures, step: int) -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        for name, content in pictures.items():
            (Path(folder) / f"{name}.png").write_bytes(content)
        mlflow.log_artifacts(folder, GROUP)


def _read(pictures: Pictures) -> dict[str, Any]:
    """Return PNG files as images of Pillow."""
    from PIL import Image

    return {name: Image.open(io.BytesIO(content)).convert("RGB") for name, content in pictures.items()}


# What sends PNG files by name to an open tracker, with the step at which they were drawn.
SENDERS: dict[str, Callable[[Any, Pictures, int], None]] = {
    "tensorboard": _to_tensorboard,
    "wandb": _to_wandb,
    "trackio": _to_trackio,
    "mlflow": _to_mlflow,
}
