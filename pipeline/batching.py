"""Run a computation in batches and halve the batch size when memory runs out."""

import logging
from collections.abc import Callable
from typing import TypeVar

from .device_manager import DeviceManager

log = logging.getLogger(__name__)
T = TypeVar("T")


def run_in_batches(
    process: Callable[[slice], T],
    count: int,
    *,
    batch_size: int,
    device_manager: DeviceManager,
    name: str,
    single_item_error: str,
) -> list[T]:
    """Call `process` for consecutive batches of `count` items and return its results in order.

    A batch that runs out of memory is tried again at half its size, and later batches keep that
    size. `process` must therefore tolerate being called again for items of a failed batch. The
    user's interrupt is checked before each call.

    This is the only out-of-memory retry in the package.

    Args:
        process: receives the items of one batch as a slice of `range(count)`.
        count: number of items.
        batch_size: number of items to start with, 1 or more.
        device_manager: recognizes out-of-memory errors and frees cached memory.
        name: name of the network, for messages.
        single_item_error: message of the MemoryError, after the name: what did not fit and what
            the user can do.
    Raises:
        MemoryError: a single item does not fit.
    """
    results: list[T] = []
    start = 0
    while start < count:
        device_manager.check_interrupt()
        batch = slice(start, min(start + batch_size, count))
        try:
            results.append(process(batch))
            start = batch.stop
            continue
        except Exception as error:
            if not device_manager.is_out_of_memory(error):
                raise
        # Outside the except block the error is gone, and with it the tensors its traceback held.
        device_manager.empty_cache()
        batch_size = (batch.stop - batch.start) // 2
        if not batch_size:
            raise MemoryError(f"{name}: {single_item_error}")
        log.warning(
            "%s: out of memory with a batch of %d; trying %d.",
            name,
            batch.stop - batch.start,
            batch_size,
        )
    return results
