"""The public data sets that `icecore data get` downloads: mirrors, sizes and checksums."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A file, or one folder of a tar archive, and where it is published.

    urls      mirrors, in the order in which they are tried
    path      destination, relative to the data folder; a folder if `inside` is given
    checksum  "md5:<hex>" or "sha256:<hex>" of the downloaded bytes; None if the publisher gives none. Then the sha256
              of the first download is stored in `<path>.sha256`, and later downloads must have the same.
    size      in bytes; None if unknown
    inside    name of the folder to unpack, wherever it lies in the archive; None: keep the file as it is
    """

    urls: tuple[str, ...]
    path: str
    checksum: str | None = None
    size: int | None = None
    inside: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The files of one data set, and what a user should know before downloading them."""

    files: tuple[RemoteFile, ...]
    note: str


def _mnist(name: str, md5: str, size: int) -> RemoteFile:
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
    return RemoteFile(tuple(mirror + name for mirror in mirrors), f"mnist/{name}", f"md5:{md5}", size)


_TAPE = "s3.amazonaws.com/songlabdata/proteindata"

DATASETS: Mapping[str, Dataset] = {
    "mnist": Dataset(
        (
            _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
            _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
            _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
            _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
        ),
        "60,000 + 10,000 digits, 12 MB",
    ),
    "cifar10": Dataset(
        (
            RemoteFile(
                ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                "cifar10/cifar-10-python.tar.gz",
                "md5:c58f30108f718f92721af3b95e74349a",
                170_498_071,
            ),
        ),
        "50,000 + 10,000 images, 170 MB; the archive is not unpacked",
    ),
    "remote-homology": Dataset(
        (
            RemoteFile(
                (
                    f"https://{_TAPE}/data_pytorch/remote_homology.tar.gz",
                    f"http://{_TAPE}/data_pytorch/remote_homology.tar.gz",
                ),
                "remote_homology",
                # TAPE publishes no checksum. This is the md5 with which TorchDrug checks the same file.
                "md5:1d687bdeb9e3866f77504d6079eed00a",
                inside="remote_homology",
            ),
        ),
        "TAPE's 16,292 protein domains as LMDB",
    ),
    "remote-homology-json": Dataset(
        (
            RemoteFile(
                (f"https://{_TAPE}/data_raw_pytorch/remote_homology.tar.gz",),
                "remote_homology_json",
                inside="remote_homology",
            ),
        ),
        "the same domains as JSON; no checksum is published, so the first download sets it",
    ),
    "listops": Dataset(
        (
            RemoteFile(
                ("https://storage.googleapis.com/long-range-arena/lra_release.gz",),
                "lra_release/listops-1000",
                inside="listops-1000",
            ),
        ),
        "Long Range Arena's own files in a 7.7 GB archive; optional, because icecore generates ListOps itself; no "
        "checksum is published, so the first download sets it",
    ),
}
