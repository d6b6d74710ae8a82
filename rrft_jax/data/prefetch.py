"""Batches on their way to the devices while the devices compute the batch before."""

from collections.abc import Callable, Iterator
from typing import Any

from rrft_jax.data.batch import Batch
from rrft_jax.data.loader import Loader


class Prefetch(Iterator[tuple[Batch, Any]]):
    """Pairs of a batch and its copy on the devices, read one batch ahead.

    Attributes:
      position: the loader's state after the last batch that was taken. The batch read ahead does
        not count, so a run that resumes from this position misses no batch.
    """

    def __init__(self, loader: Loader, place: Callable[[Batch], Any]):
        """Read nothing yet; `place` puts a batch on the devices."""
        self._loader, self._place = loader, place
        self._ahead: tuple[Batch, Any, dict[str, Any]] | None = None
        self._begun = False
        self.position = loader.get_state()

    def __next__(self) -> tuple[Batch, Any]:
        """Return the next batch, once the batch after it is read and placed.

        Raises:
          UserError: as the loader does.
        """
        if not self._begun:
            self._begun, self._ahead = True, self._read()
        if self._ahead is None:
            raise StopIteration
        (batch, placed, self.position), self._ahead = self._ahead, self._read()
        return batch, placed

    def _read(self) -> tuple[Batch, Any, dict[str, Any]] | None:
        """Read and place a batch; return None at the end of the loader."""
        batch = next(self._loader, None)
        if batch is None:
            return None
        return batch, self._place(batch), self._loader.get_state()
