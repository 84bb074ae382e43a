"""Learning curves for TensorBoard, where `tensorboard = true` asks for them. metrics.csv is written in any case."""

from pathlib import Path

from pipeline.errors import StageError

EPOCH_CURVES = ("loss", "learning_rate", "seconds", "waiting_share")


class Curves:
    """Scalars of one training, in `<folder>/tensorboard`.

    Args:
        wanted: False makes all calls do nothing.
        step: of the whole training, from 1, that comes next; what an interrupted process wrote from there on is hidden.
    Raises:
        StageError: they are wanted, and TensorBoard is not installed.
    """

    def __init__(self, folder: Path, wanted: bool, step: int):
        self.writer = _writer(folder / "tensorboard", step) if wanted else None

    def step(self, step: int, loss: float) -> None:
        """Add the loss of one step."""
        if self.writer:
            self.writer.add_scalar("step/loss", loss, step)

    def epoch(self, row: dict) -> None:
        """Add a row of metrics.csv."""
        if self.writer:
            for name in EPOCH_CURVES:
                self.writer.add_scalar(f"epoch/{name}", row[name], row["epoch"])
            self.writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        if self.writer:
            self.writer.close()


def _writer(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise StageError(
            "tensorboard = true needs TensorBoard, which is not installed: python -m pip install -e .[tensorboard] "
            "(metrics.csv is written without it)"
        ) from error
    return SummaryWriter(str(folder), purge_step=step)
