"""Reads LMDB files page by page, without the C library.

That library maps a file into memory and believes the numbers in it: a file that was cut short, or crafted, kills the
process. Here every page number, offset and size is checked against the file, and nothing is read that is not asked
for. The format is that of LMDB 0.9 on 64-bit little-endian machines (`MDB_meta`, `MDB_page` and `MDB_node` in mdb.c).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from icecore.core.errors import DataError
from icecore.tasks.data_files import FETCH_AGAIN

MAGIC, VERSION = 0xBEEFC0DE, 1
#: magic, version, address, size of the map; of the table of free pages its page size; of the main table its flags,
#: depth, number of entries and root; last page, number of the transaction
META = struct.Struct("<16x I I 16x I 44x 4x H H 24x Q Q Q Q")
PAGE_HEADER = struct.Struct("<Q 2x H H H")
NODE = struct.Struct("<H H H H")
BRANCH, LEAF, OVERFLOW = 1, 2, 4
#: flag of a node whose value lies on overflow pages
BIG_DATA = 1
NO_PAGE = 2**64 - 1
PAGE_SIZES = tuple(2**power for power in range(9, 16))
#: the longest key, as in the library
MAX_KEY_SIZE = 511
#: levels of the largest tree that is read; each has hundreds of times as many pages as the one above
MAX_TREE_DEPTH = 16


class _Meta(NamedTuple):
    magic: int
    version: int
    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


class LmdbFile:
    """An open LMDB file or folder, read-only: a table of keys and where their values are.

    Raises DataError for a file that is cut short, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file: BinaryIO = (path / "data.mdb" if path.is_dir() else path).open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}). {FETCH_AGAIN}") from error
        try:
            self.size = self.file.seek(0, 2)
            self.page_size = META.size
            #: bytes of all values so far: they cannot be more than the file has, unless one is named twice
            self.claimed = 0
            self.meta = self._read_meta()
            self.places = dict(self._entries())
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "LmdbFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None if there is no such key."""
        place = self.places.get(key)
        return None if place is None else self._read(*place)

    def _fault(self, reason: str) -> DataError:
        return DataError(f"{self.path}: not a readable LMDB ({reason}). {FETCH_AGAIN}")

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self.size:
            raise self._fault(f"it has {self.size:,} bytes, and would need at least {offset + size:,}")
        try:
            self.file.seek(offset)
            return self.file.read(size)
        except OSError as error:
            raise self._fault(str(error)) from error

    def _read_meta(self) -> _Meta:
        """The newer of the two descriptions at the start of the file."""
        first = _Meta(*META.unpack(self._read(0, META.size)))
        if first.magic != MAGIC or first.version != VERSION or first.page_size not in PAGE_SIZES:
            raise self._fault("its first bytes are not those of LMDB 0.9")
        self.page_size = first.page_size
        second = _Meta(*META.unpack(self._read(self.page_size, META.size)))
        if second.magic != MAGIC or second.page_size != self.page_size:
            raise self._fault("its second page is damaged")
        meta = max(first, second, key=lambda each: each.transaction)
        needed = (meta.last_page + 1) * self.page_size
        if needed > self.size:
            raise self._fault(f"it has {self.size:,} bytes instead of {needed:,}")
        if meta.depth > MAX_TREE_DEPTH or meta.flags:
            raise self._fault("its main table is of another kind than icecore reads")
        return meta

    def _entries(self) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """Each key, and the (offset, size) of its value in the file."""
        if self.meta.root == NO_PAGE:
            return
        seen: set[int] = set()
        waiting = [self.meta.root]
        while waiting:
            number = waiting.pop()
            if number in seen or number > self.meta.last_page:
                raise self._fault(f"page {number} is named twice or does not exist")
            seen.add(number)
            page = self._read(number * self.page_size, self.page_size)
            own_number, flags, lower, upper = PAGE_HEADER.unpack_from(page)
            if own_number != number or flags & (BRANCH | LEAF) not in (BRANCH, LEAF) or flags & ~0x13:
                raise self._fault(f"page {number} is damaged")
            if not PAGE_HEADER.size <= lower <= upper <= self.page_size:
                raise self._fault(f"page {number} has a wrong size")
            left = self.page_size
            for offset in struct.unpack_from(f"<{(lower - PAGE_HEADER.size) // 2}H", page, PAGE_HEADER.size):
                if offset + NODE.size > self.page_size:
                    raise self._fault(f"page {number} has an entry outside of itself")
                low, high, node_flags, key_size = NODE.unpack_from(page, offset)
                start = offset + NODE.size
                left -= NODE.size + key_size
                if key_size > MAX_KEY_SIZE or left < 0:
                    raise self._fault(f"the keys of page {number} are larger than the page")
                if flags & BRANCH:
                    waiting.append(low | high << 16 | node_flags << 32)
                else:
                    key = page[start : start + key_size]
                    yield key, self._place(number, start + key_size, low | high << 16, node_flags)

    def _place(self, page: int, start: int, size: int, flags: int) -> tuple[int, int]:
        """The (offset, size) in the file of the value that a leaf's node describes."""
        offset = page * self.page_size + start
        self.claimed += size
        if self.claimed > self.size:
            raise self._fault("its values are larger than the file, so some of them lie upon each other")
        if flags not in (0, BIG_DATA) or start + (8 if flags else size) > self.page_size:
            raise self._fault(f"page {page} has a damaged entry")
        if not flags:
            return offset, size
        first = int.from_bytes(self._read(offset, 8), "little")
        place = first * self.page_size + PAGE_HEADER.size
        if first > self.meta.last_page or place + size > self.size:
            raise self._fault(f"a value of page {page} lies outside of the file")
        return place, size
