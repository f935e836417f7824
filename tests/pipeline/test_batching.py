"""Batches: results in order, halved when memory runs out."""

import weakref

import pytest
import torch
from comfyui_colorist.pipeline.batching import run_in_batches
from comfyui_colorist.pipeline.device_manager import DeviceManager, images_that_fit
from torch import nn


class RecordingDevice(DeviceManager):
    def __init__(self):
        super().__init__(nn.Identity())
        self.emptied = self.checked = 0

    def check_interrupt(self):
        self.checked += 1

    def empty_cache(self):
        self.emptied += 1


@pytest.fixture
def device_manager():
    return RecordingDevice()


def run(device_manager, process, count, batch_size):
    return run_in_batches(
        process,
        count,
        batch_size=batch_size,
        device_manager=device_manager,
        name="net",
        single_item_error="out of memory on one image.",
    )


def positions(batch):
    return list(range(batch.start, batch.stop))


def test_batches_cover_all_items_in_order(device_manager):
    assert run(device_manager, positions, 5, 2) == [[0, 1], [2, 3], [4]]
    assert run(device_manager, positions, 0, 2) == []
    assert device_manager.checked == 3 and not device_manager.emptied


def test_out_of_memory_halves_this_and_later_batches(device_manager, caplog):
    def process(batch):
        if batch.stop - batch.start > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return positions(batch)

    assert run(device_manager, process, 7, 4) == [[0, 1], [2, 3], [4, 5], [6]]
    assert device_manager.emptied == 1
    assert "net: out of memory with a batch of 4; trying 2." in caplog.text


def test_a_single_item_that_does_not_fit(device_manager):
    def process(batch):
        raise MemoryError

    with pytest.raises(MemoryError, match=r"^net: out of memory on one image\.$"):
        run(device_manager, process, 3, 2)
    assert device_manager.emptied == 2


def test_tensors_of_a_failed_batch_are_freed_before_the_retry(device_manager):
    held, alive = [], []

    def process(batch):
        alive.extend(ref() is not None for ref in held)
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        if len(held) == 1:
            raise MemoryError

    run(device_manager, process, 2, 2)
    assert alive[0] is False


def test_other_errors_pass(device_manager):
    def process(batch):
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        run(device_manager, process, 3, 2)


def test_batch_sizes_use_half_of_the_free_memory():
    assert images_that_fit(1000, 100) == 5
    assert images_that_fit(1000, 1) == 16
    assert images_that_fit(1000, 10**6) == 1
    assert images_that_fit(0, 0) == 1
