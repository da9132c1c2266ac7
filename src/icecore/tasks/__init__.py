"""Tasks by name. Importing this reads no data.

The paper's settings: Lu et al. 2021, Section 2.2 and Table 6 (steps to converge); batch sizes are
within the published range of 2 to 16.
"""

from collections.abc import Mapping

from icecore.core.errors import unknown_name
from icecore.tasks import bits, images, listops, proteins
from icecore.tasks.task import Task, TaskDefaults, TaskEntry, TaskRequest

__all__ = ["TASKS", "build_task"]


def _paper(steps: int, batch_size: int, lr: float = 1e-3) -> TaskDefaults:
    return TaskDefaults(steps=steps, batch_size=batch_size, lr=lr, eval_every=max(1, steps // 20))


TASKS: Mapping[str, TaskEntry] = {
    "bit-memory": TaskEntry(
        bits.build_bit_memory,
        "recall one of five strings of 1,000 bits from a half-masked copy",
        "120 x 50",
        bits.BitMemory.defaults,
        _paper(10_000, 16),
        bits.MEMORY_OPTIONS,
    ),
    "bit-xor": TaskEntry(
        bits.build_bit_xor,
        "elementwise XOR of two strings of n bits",
        "2n x 1",
        bits.BitXor.defaults,
        _paper(500, 4),
        bits.XOR_OPTIONS,
    ),
    "listops": TaskEntry(
        listops.build_listops,
        "value of nested MIN, MAX, MED, SM expressions (Long Range Arena)",
        "<= 2000, vocabulary 16",
        listops.ListOps.defaults,
        _paper(2_000, 16),
        listops.LISTOPS_OPTIONS,
    ),
    "mnist": TaskEntry(
        images.build_mnist,
        "handwritten digits in 4 x 4 patches",
        "64 x 16",
        images.Mnist.defaults,
        _paper(5_000, 16),
        images.MNIST_OPTIONS,
    ),
    "cifar10": TaskEntry(
        images.build_cifar10,
        "small colour images in 4 x 4 patches, augmented",
        "64 x 48",
        images.Cifar10.defaults,
        _paper(400_000, 16),
        images.CIFAR10_OPTIONS,
    ),
    "cifar10-lra": TaskEntry(
        images.build_cifar10_lra,
        "small grey images, one pixel a token (Long Range Arena)",
        "1024 x 1",
        images.Cifar10LRA.defaults,
        _paper(300_000, 16),
        images.CIFAR10_LRA_OPTIONS,
    ),
    "remote-homology": TaskEntry(
        proteins.build_remote_homology,
        "fold of a protein from its sequence (TAPE)",
        "<= 1024, vocabulary 30",
        proteins.RemoteHomology.defaults,
        _paper(100_000, 2, 1e-4),
        proteins.HOMOLOGY_OPTIONS,
    ),
}


def build_task(name: str, request: TaskRequest) -> Task:
    """The task `name`, its data read onto the CPU. Raises ConfigError for an unknown name, DataError for the data."""
    entry = TASKS.get(name)
    if entry is None:
        raise unknown_name("task", name, TASKS)
    task = entry.build(request)
    task.unmasked = "no-mask" in request.faults
    return task
