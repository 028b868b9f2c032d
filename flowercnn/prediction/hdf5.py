"""A look at the bones of an HDF5 file, before the HDF5 library reads it.

That library allocates what a file claims and follows where it points. Here everything a file claims is compared with
the file, in plain Python: only what Keras writes goes on (groups of arrays in the oldest layout of the format, each
part within the file). Format: HDF5 File Format Specification 2.0, sections II.A, III.A-E, IV.A.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

from flowercnn.errors import ModelFileError

__all__ = ["check_structure"]

_NIL, _DATASPACE, _DATATYPE, _LAYOUT, _CONTINUATION, _SYMBOL_TABLE = 0x0, 0x1, 0x3, 0x8, 0x10, 0x11
_ATTRIBUTE: Final = 0xC
_OTHERS: Final = frozenset({0x4, 0x5, 0x12})  # fill values, time of change
_SHARED: Final = 2  # a flag: the message lies elsewhere
_UNDEFINED: Final = 2**64 - 1
_TEXT, _TEXT_ELSEWHERE = 0x3, 0x9  # kinds of data
_MOST_PARTS: Final = 200_000
_MOST_DIMENSIONS: Final = 8
_LARGEST_NODE: Final = 1024
_START: Final = b"\x89HDF\r\n\x1a\n"


def check_structure(content: bytes, name: str) -> None:
    """Refuse HDF5 files that are not laid out as Keras lays them out.

    Args:
        content: The file; what follows the end it claims is not looked at.
        name: For messages.

    Raises:
        ModelFileError: If a part lies outside the file or in two places, or is of a kind Keras does not write.
    """
    try:
        _Walk(content).run()
    except (struct.error, ValueError) as error:
        raise ModelFileError(f"{name}: refused: the weights are not laid out as Keras does it ({error}).") from error


class _Walk:
    """One pass over all parts of a file; each is visited once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._seen: set[int] = set()
        self._headers: list[int] = []

    def run(self) -> None:
        versions = self._content[8:16]
        _require(self._content[:8] == _START and versions == bytes([0, 0, 0, 0, 0, 8, 8, 0]), "superblock")
        leaf, internal = self._unpack("<HH", 16)
        _require(0 < leaf <= _LARGEST_NODE and 0 < internal <= _LARGEST_NODE, "node sizes")
        self._symbol_bytes = 8 + 2 * leaf * 40
        self._tree_bytes = 24 + (4 * internal + 1) * 8
        base, _, end = self._unpack("<QQQ", 24)
        _require(base == 0 and end <= len(self._content), "end of file")
        self._headers = [self._unpack("<Q", 64)[0]]
        while self._headers:
            self._object(self._headers.pop())

    def _object(self, address: int) -> None:
        version, messages, length = self._unpack("<BxH4xI", self._visit(address, 16))
        _require(version == 1, "object header")
        blocks = [(address + 16, length)]
        found: dict[int, tuple[int, int]] = {}
        while blocks and messages > 0:
            start, length = blocks.pop(0)
            self._inside(start, length)
            end = start + length
            while start + 8 <= end and messages > 0:
                kind, size, flags = self._unpack("<HHB", start)
                body, start, messages = start + 8, start + 8 + size, messages - 1
                _require(start <= end and not flags & _SHARED, "message")
                if kind == _CONTINUATION:
                    offset, length = self._unpack("<QQ", body)
                    blocks.append((self._visit(offset, length), length))
                elif kind in (_DATASPACE, _DATATYPE, _LAYOUT, _SYMBOL_TABLE):
                    _require(kind not in found, "message that occurs twice")
                    found[kind] = (body, size)
                elif kind == _ATTRIBUTE:
                    self._attribute(body, size)
                else:
                    _require(kind == _NIL or kind in _OTHERS, f"message of kind {kind}")
        if _SYMBOL_TABLE in found:
            self._group(*self._unpack("<QQ", found[_SYMBOL_TABLE][0]))
        elif found:
            _require(found.keys() == {_DATASPACE, _DATATYPE, _LAYOUT}, "array")
            self._array(found[_DATASPACE][0], found[_DATATYPE][0], found[_LAYOUT][0])

    def _group(self, tree: int, heap: int) -> None:
        signature, size, names = self._unpack("<4s4xQ8xQ", self._visit(heap, 32))
        _require(signature == b"HEAP", "heap")
        self._inside(names, size)
        nodes = [tree]
        while nodes:
            node = nodes.pop()
            if self._content[node : node + 4] == b"TREE":
                kind, _, entries = self._unpack("<4xBBH", self._visit(node, self._tree_bytes))
                _require(kind == 0 and 24 + (2 * entries + 1) * 8 <= self._tree_bytes, "tree")
                nodes.extend(self._unpack("<Q", node + 32 + 16 * entry)[0] for entry in range(entries))
                continue
            signature, count = self._unpack("<4s2xH", self._visit(node, self._symbol_bytes))
            _require(signature == b"SNOD" and 8 + count * 40 <= self._symbol_bytes, "list of members")
            for entry in range(node + 8, node + 8 + count * 40, 40):
                label, header, link = self._unpack("<QQI", entry)
                _require(link in (0, 1), "link to another place")
                _require(label < size and 0 in self._content[names + label : names + size], "name")
                self._headers.append(header)

    def _array(self, space: int, kind: int, layout: int) -> None:
        version, rank = self._unpack("<BB", space)
        _require(version in (1, 2) and rank <= _MOST_DIMENSIONS, "shape")
        shape = self._unpack(f"<{rank}Q", space + (8 if version == 1 else 4))
        number, item = self._unpack("<B3xI", kind)
        _require(number & 15 in (0, 1) and 0 < item <= 8, "array that holds no numbers")  # noqa: PLR2004 - float64
        version, place = self._unpack("<BB", layout)
        _require(version == 3 and place in (0, 1), "array that is not in one piece in this file")  # noqa: PLR2004
        claimed = math.prod(shape) * item
        if place == 0:
            _require(claimed <= self._unpack("<H", layout + 2)[0], "array")
            return
        address, size = self._unpack("<QQ", layout + 2)
        if address != _UNDEFINED or claimed:
            self._visit(address, size)
            _require(claimed <= size, "array that claims more data than the file holds")

    def _attribute(self, body: int, size: int) -> None:
        version, *sizes = self._unpack("<BxHHH", body)
        _require(version in (1, 3), "attribute")
        steps = [-(-part // 8) * 8 for part in sizes] if version == 1 else sizes
        kind = body + (8 if version == 1 else 9) + steps[0]
        space = kind + steps[1]
        values = space + steps[2]
        version, rank = self._unpack("<BB", space)
        _require(version in (1, 2) and rank <= 1, "shape of an attribute")
        (count,) = self._unpack("<Q", space + (8 if version == 1 else 4)) if rank else (1,)
        number, item = self._unpack("<B3xI", kind)
        _require(number & 15 in (0, 1, _TEXT, _TEXT_ELSEWHERE), "attribute that holds no numbers or text")
        _require(values + count * item <= body + size, "attribute that claims more data than it holds")
        if number & 15 == _TEXT_ELSEWHERE:
            (character,) = self._unpack("<4xI", kind + 8)
            _require(item == 16 and character == 1, "text of an attribute")  # noqa: PLR2004 - length, address, number
            for value in range(values, values + count * item, item):
                length, address = self._unpack("<IQ", value)
                if length:
                    self._text(length, address)

    def _text(self, length: int, address: int) -> None:
        """Texts of any length lie in collections, which several attributes may use."""
        signature, size = self._unpack("<4s4xQ", address)
        _require(signature == b"GCOL", "collection of texts")
        self._inside(address, size)
        _require(length <= size, "text that claims to be longer than the file")

    def _visit(self, address: int, length: int) -> int:
        self._inside(address, length)
        _require(address not in self._seen, "part that is used twice")
        self._seen.add(address)
        _require(len(self._seen) <= _MOST_PARTS, "number of parts")
        return address

    def _inside(self, address: int, length: int) -> None:
        _require(
            0 <= address <= len(self._content) and length <= len(self._content) - address, "part outside the file"
        )

    def _unpack(self, form: str, address: int) -> tuple[Any, ...]:
        return struct.unpack_from(form, self._content, address)


def _require(condition: object, what: str) -> None:
    if not condition:
        raise ValueError(what)
