"""NumPy's files with headers that lie or break the parser: a message each, and no memory for a claim."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.user_data import plan
from icecore.user_data.readers.array_files import read_npy, read_npz


def header(text: str, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


def described(kind: str, shape: str) -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    "start",
    [
        header(described("'<f4'", "(1000000000, 0)")),
        header(described("'<U0'", "(1000000000,)")),
        header(described("'<f4'", f"({10**30},)")),
        header(described("'<f4'", f"({10**30}, 0)")),
        header(described("'<f4'", "(-1, -400)")),
        header(described("'<f4'", "(True, 4)")),
        header(described("'|O'", "(4,)")),
        header(described("5", "(4,)")),
        header("(" * 9000),
        header("-" * 9000 + "1"),
        header("{}"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31),
        b"\x93NUMPY\x09\x00" + bytes(8),
        b"\x93NU",
        b"",
    ],
)
def test_a_header_that_lies_is_a_message(tmp_path: Path, start: bytes) -> None:
    content = start + bytes(400)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy cannot be read as an array"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", content)
    with pytest.raises(DataError, match=r"a\.npz cannot be read as an array"):
        plan(tmp_path / "a.npz")


@pytest.mark.parametrize("points", [b"\xff\xff\xff\x7f", b"\x00\xd8\x00\x00"])
@pytest.mark.parametrize("name", ["a.npy", "y.npy"])
def test_texts_of_numbers_that_are_no_characters(tmp_path: Path, points: bytes, name: str) -> None:
    np.save(tmp_path / "a.npy", np.ones((40, 2)))
    (tmp_path / name).write_bytes(header(described("'<U1'", "(40,)")) + points * 40)
    if name == "a.npy":
        np.save(tmp_path / "y.npy", np.arange(40) % 2)
    with pytest.raises(DataError, match=r"cannot be read as an array .*no characters"):
        plan(tmp_path / "a.npy")


def test_arrays_of_all_versions_and_bytes_as_texts_are_read(tmp_path: Path) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    for version in (1, 2, 3):
        content = header(described("'<f4'", "(2, 3)"), version) + array.tobytes()
        (tmp_path / "a.npy").write_bytes(content)
        assert (read_npy(tmp_path / "a.npy") == array).all()
    np.savez_compressed(tmp_path / "a.npz", x=array, y=np.array([b"yes", "é".encode()]))
    read = read_npz(tmp_path / "a.npz")
    assert (read["x"] == array).all()
    assert read["y"].tolist() == ["yes", "é"]


def test_sequences_without_points(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.zeros((0, 0, 3)), y=np.zeros(0))
    with pytest.raises(DataError, match="have no values"):
        plan(tmp_path / "a.npz")
