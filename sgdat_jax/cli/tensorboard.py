"""Event files for TensorBoard, written without TensorFlow."""

import importlib.util
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from sgdat_jax import files
from sgdat_jax.run_folder import formats
from sgdat_jax.training import loop


def check_installed() -> None:
    """Raises ValueError if the package that writes event files is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            "tensorboardX is not installed; tensorboard needs: "
            "pip install 'sgdat-jax[tensorboard]'"
        )


class EventFile(loop.Watcher):
    """Writes the numbers of each epoch to an event file.

    Use it as a context manager. Histograms are left out: the run's metrics file has
    them.

    Args:
      folder: where the file goes; made if it is not there.

    Raises:
      OSError: if a link is in the place of the folder.
    """

    def __init__(self, folder: pathlib.Path):
        import tensorboardX

        files.make_inner(folder)
        # tensorboardX opens whatever has the name of its file, even a link: by chance
        # there is none.
        self._writer = tensorboardX.SummaryWriter(
            str(folder), filename_suffix=f".{secrets.token_hex(8)}"
        )

    def __enter__(self) -> "EventFile":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file."""
        self._writer.close()

    def epoch_ended(self, line: formats.EpochLine) -> None:
        """Writes the epoch, at the step of its number."""
        for name, value in _scalars(line).items():
            self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()


def _scalars(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns the numbers of a line by their paths, such as flip_ratio_per_layer/a."""
    scalars: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            scalars |= _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "epoch":
            scalars[f"{prefix}{name}"] = value
    return scalars
