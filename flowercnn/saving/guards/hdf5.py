"""Checks of HDF5 files, before the HDF5 library reads them and after.

That library allocates what a file claims and follows where it points. Here every claim is compared
with the file, in plain Python: only what Keras writes is accepted (groups of arrays in the oldest
layout of the format, each part within the file). Format: HDF5 File Format Specification 2.0,
sections II.A, III.A-E, IV.A.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from flowercnn.errors import ModelFileError

__all__ = ["check_arrays", "check_structure"]

_NIL, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x0, 0xC, 0x10, 0x11  # kinds of messages
_DATASPACE, _DATATYPE, _FILL_VALUE, _LAYOUT = 0x1, 0x3, 0x5, 0x8
_ARRAY: Final = frozenset({_DATASPACE, _DATATYPE, _FILL_VALUE, _LAYOUT})
_FLOATS: Final = (
    bytes.fromhex("11200f00 02000000 0000 1000 0a05000a 0f000000"),  # float16
    bytes.fromhex("11201f00 04000000 0000 2000 17080017 7f000000"),  # float32
    bytes.fromhex("11203f00 08000000 0000 4000 340b0034 ff030000"),  # float64
)
_INTEGERS: Final = tuple(
    struct.pack("<BBxxIHH", 0x10, sign, size, 0, 8 * size)
    for sign in (0, 8)
    for size in (1, 2, 4, 8)
)
_NUMBERS: Final = frozenset({*_FLOATS, *_INTEGERS})
_TEXTS_ELSEWHERE: Final = frozenset(  # ASCII, UTF-8
    bytes.fromhex(f"1901{code}00 10000000 10000000 01000000 00000800") for code in ("00", "01")
)
_NO_FILL_VALUE: Final = bytes.fromhex("02020201 00000000")
_UNDEFINED: Final = 2**64 - 1
_START: Final = (  # with versions and node sizes
    b"\x89HDF\r\n\x1a\n" + bytes.fromhex("00000000 00080800 0400 1000 00000000")
)
_TREE_BYTES, _MOST_CHILDREN = 544, 32  # as the node sizes have it
_SYMBOLS_BYTES, _MOST_SYMBOLS = 328, 8
_SMALLEST_COLLECTION: Final = 4096
_NO_MORE: Final = 1  # ends a list of free blocks
_MOST_PARTS: Final = 200_000
_MOST_MESSAGES: Final = 1_000  # of an object; the library searches all for each attribute
_MOST_DIMENSIONS: Final = 8
_MOST_TEXT: Final = 32 * 2**20
_LONGEST_NAME: Final = 4096


def check_structure(content: bytes, name: str) -> None:
    """Reject HDF5 files that are not laid out as Keras lays them out.

    Args:
        content: The file; what follows the end it claims is not looked at.
        name: For messages.

    Raises:
        ModelFileError: If a part is outside the file or in two places, or is of a kind Keras does
            not write.
    """
    try:
        _Walk(content).run()
    except (struct.error, ValueError) as error:
        reason = f"the weights are not laid out as Keras does it ({error})"
        raise ModelFileError(f"{name}: rejected: {reason}.") from error


def check_arrays(content: bytes, name: str) -> list[tuple[int, ...]]:
    """Return the shapes of arrays, sorted; reject files with more than plain arrays of numbers.

    Args:
        content: An HDF5 file.
        name: For messages.

    Raises:
        ModelFileError: If it has links out of itself, virtual or external data, objects, compressed
            arrays, arrays larger than the file, or numbers that are not finite.
    """
    import h5py

    check_structure(content, name)
    try:
        with h5py.File(io.BytesIO(content), "r") as weights:
            return sorted(_shapes_within(h5py, weights, len(content)))
    except _WeightsError as error:
        raise ModelFileError(f"{name}: rejected: {error}") from None


class _WeightsError(Exception):
    """Says why weights are rejected, without the name of the file."""


def _shapes_within(h5py: Any, weights: Any, file_size: int) -> Iterator[tuple[int, ...]]:
    groups, visited = [weights], set()
    while groups:
        group = groups.pop()
        for key in group:
            link = group.id.links.get_info(key.encode())
            if link.type != h5py.h5l.TYPE_HARD:
                raise _WeightsError(f"the weights link to another place ({key!r}).")
            if link.u in visited:  # the address: a group within itself would never end
                raise _WeightsError(f"{key!r} is in the weights twice.")
            visited.add(link.u)
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                _check_array(item, file_size, key)
                yield tuple(item.shape)
            else:
                raise _WeightsError(f"{key!r} is not an array of numbers.")


def _check_array(array: Any, file_size: int, key: str) -> None:
    if array.external or array.is_virtual:
        raise _WeightsError(f"the weights of {key!r} are in another file.")
    if array.shape is None or array.dtype.kind not in "fiu":
        raise _WeightsError(f"{key!r} is not an array of numbers.")
    if array.chunks is not None:
        raise _WeightsError(f"{key!r} is compressed or in parts; Keras never does that.")
    size = math.prod(array.shape) * array.dtype.itemsize
    if size > min(file_size, array.id.get_storage_size()):
        raise _WeightsError(f"{key!r} claims more data than the file holds.")
    if not np.isfinite(array[()]).all():
        raise _WeightsError("weights that are NaN or infinite; such a model predicts nothing.")


class _Walk:
    """A pass over all parts of a file; each is visited once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._end = len(content)
        self._steps = 0
        self._parts: dict[int, int] = {}
        self._texts: dict[int, dict[int, int]] = {}
        self._text_bytes = 0
        self._headers: list[tuple[int, tuple[int, int] | None]] = []

    def run(self) -> None:
        _check(self._content.startswith(_START), "superblock")
        base, free, end, driver = self._unpack("<4Q", len(_START))
        _check((base, free, driver) == (0, _UNDEFINED, _UNDEFINED), "superblock")
        _check(end <= self._end, "end of file")
        self._end = end
        self._symbol(self._visit(0, 96) + 56)
        while self._headers:
            self._object(*self._headers.pop())
        self._check_apart()

    def _check_apart(self) -> None:
        end = 0
        for address, length in sorted(self._parts.items()):
            _check(end <= address, "parts that overlap")
            end = address + length

    def _object(self, address: int, cached: tuple[int, int] | None) -> None:
        messages: dict[int, tuple[int, int]] = {}
        for kind, body, size in self._messages(address):
            if kind == _ATTRIBUTE:
                self._attribute(body, size)
                continue
            _check(kind == _SYMBOL_TABLE or kind in _ARRAY, f"message of kind {kind}")
            _check(kind not in messages, "message that occurs twice")
            messages[kind] = (body, size)
        if cached:  # the library also trusts the entry in the list of members
            _check(messages.keys() == {_SYMBOL_TABLE}, "group")
            place = self._unpack("<QQ", messages[_SYMBOL_TABLE][0])
            _check(place == cached, "group that has two places")
            self._group(*cached)
        else:
            _check(messages.keys() == _ARRAY, "array")
            self._array(messages)

    def _messages(self, address: int) -> Iterator[tuple[int, int, int]]:
        """Yield kind, address and size of each message, to the end of every block."""
        version, claimed, length = self._unpack("<BxH4xI", address)
        _check(version == 1 and claimed <= _MOST_MESSAGES, "object header")
        blocks, count = [(self._visit(address, 16 + length) + 16, length)], 0
        while blocks:
            start, length = blocks.pop()
            end = start + length
            while start < end:
                kind, size, flags = self._unpack("<HHB", start)
                body, start, count = start + 8, start + 8 + size, count + 1
                # Other flags: the message is elsewhere, or of an unknown kind.
                _check(start <= end and size % 8 == 0 and flags in (0, 1), "message")
                self._step()
                if kind == _CONTINUATION:
                    place, length = self._unpack("<QQ", body)
                    blocks.append((self._visit(place, length), length))
                elif kind != _NIL:
                    yield kind, body, size
        _check(count == claimed, "number of messages")

    def _group(self, tree: int, heap: int) -> None:
        signature, version, size, free, names = self._unpack("<4sB3xQQQ", self._visit(heap, 32))
        _check(signature == b"HEAP" and version == 0, "heap")
        self._visit(names, size)
        self._free_blocks(names, size, free)
        labels, lists = self._tree(tree)
        for symbols in lists:
            signature, version, count = self._unpack("<4sBxH", self._visit(symbols, _SYMBOLS_BYTES))
            is_list = signature == b"SNOD" and version == 1
            _check(is_list and count <= _MOST_SYMBOLS, "list of members")
            labels.extend(self._symbol(symbols + 8 + 40 * entry) for entry in range(count))
        for label in labels:
            end = names + min(size, label + _LONGEST_NAME)
            _check(self._content.find(b"\0", names + label, end) >= 0, "name")

    def _free_blocks(self, names: int, size: int, free: int) -> None:
        """Follow a list of free blocks; a circular one ends in too many steps."""
        while free != _NO_MORE:
            self._step()
            _check(free + 16 <= size, "free block")
            following, length = self._unpack("<QQ", names + free)
            _check(free + length <= size, "free block")
            free = following

    def _tree(self, root: int) -> tuple[list[int], list[int]]:
        """Return the labels in a tree, and the addresses of the lists of members it leads to."""
        labels: list[int] = []
        level = [root]
        for depth in range(self._unpack("<5xB", root)[0], -1, -1):
            ends = [_UNDEFINED, *level, _UNDEFINED]
            neighbours = zip(ends, ends[2:], strict=False)
            pairs = zip(level, neighbours, strict=False)
            nodes = [self._node(node, each, depth) for node, each in pairs]
            labels += [label for node in nodes for label in node[::2]]
            level = [child for node in nodes for child in node[1::2]]
        return labels, level

    def _node(self, node: int, neighbours: tuple[int, int], depth: int) -> tuple[int, ...]:
        """Return label, child, label, child ... label."""
        head = self._unpack("<4sBBHQQ", self._visit(node, _TREE_BYTES))
        count = head[3]
        _check(head[:3] == (b"TREE", 0, depth) and count <= _MOST_CHILDREN, "tree")
        _check(head[4:] == neighbours, "neighbours in a tree")
        return self._unpack(f"<{2 * count + 1}Q", node + 24)

    def _symbol(self, entry: int) -> int:
        """Remember the address of a member, and return that of its name."""
        label, header, link, tree, heap = self._unpack("<QQI4xQQ", entry)
        _check(link in (0, 1), "link to another place")
        self._headers.append((header, (tree, heap) if link else None))
        return int(label)

    def _array(self, messages: dict[int, tuple[int, int]]) -> None:
        shape = self._shape(*messages[_DATASPACE])
        body, size = messages[_DATATYPE]
        kind = self._content[body : body + size]  # padded
        _check(any(kind.startswith(known) for known in _NUMBERS), "array that holds no numbers")
        version, place, address, length = self._unpack("<BBQQ", messages[_LAYOUT][0])
        _check((version, place) == (3, 1), "array that is not in one piece in this file")
        claimed = math.prod(shape) * kind[4]
        _check(claimed == length, "array that claims more data than the file holds")
        body, size = messages[_FILL_VALUE]
        _check(self._content[body : body + size] == _NO_FILL_VALUE, "fill value")
        if length:
            self._visit(address, length)

    def _shape(self, body: int, size: int) -> tuple[int, ...]:
        version, rank, limits = self._unpack("<BBB", body)
        _check(version == 1 and rank <= _MOST_DIMENSIONS and limits == (rank > 0), "shape")
        _check(size == 8 + 16 * rank, "shape")
        shape = self._unpack(f"<{2 * rank}Q", body + 8)
        _check(shape[:rank] == shape[rank:], "shape that may grow")
        return shape[:rank]

    def _attribute(self, body: int, size: int) -> None:
        version, flags, *sizes = self._unpack("<BBHHH", body)
        _check((version, flags) == (1, 0), "attribute")
        starts = (body + 8 + sum(-(-part // 8) * 8 for part in sizes[:n]) for n in (1, 2, 3))
        kind, space, values = starts
        name_end = self._content.find(b"\0", body + 8, kind)
        _check(name_end == body + 7 + sizes[0], "name of an attribute")
        shape = self._shape(space, sizes[2])
        known, item = self._content[kind : kind + sizes[1]], self._unpack("<I", kind + 4)[0]
        _check(len(shape) <= 1 and item > 0, "shape of an attribute")
        end = values + math.prod(shape) * item
        _check(end <= body + size, "attribute that claims more data than it holds")
        if known in _TEXTS_ELSEWHERE:
            for value in range(values, end, item):
                self._text(*self._unpack("<IQI", value))
        else:
            fixed = struct.pack("<BBxxI", 0x13, 1, item)  # texts of one length, padded with zeros
            _check(known in _NUMBERS or known == fixed, "attribute that holds no numbers or text")

    def _text(self, length: int, address: int, number: int) -> None:
        """Check a text of any length, in a collection for several attributes; it belongs to one."""
        self._text_bytes += length
        _check(self._text_bytes <= _MOST_TEXT, "text that claims more than any network needs")
        if address not in self._texts:
            self._texts[address] = self._collection(address)
        actual = self._texts[address].pop(number, None)
        _check(actual == length, "text that claims another length than it has, or is used twice")

    def _collection(self, address: int) -> dict[int, int]:
        """Return the lengths of the texts in a collection, by number."""
        signature, version, size = self._unpack("<4sB3xQ", address)
        is_collection = (signature, version) == (b"GCOL", 1) and size >= _SMALLEST_COLLECTION
        _check(is_collection, "collection of texts")
        start, end = self._visit(address, size) + 16, address + size
        texts: dict[int, int] = {}
        while start + 16 <= end:
            self._step()
            number, length = self._unpack("<H6xQ", start)
            if number == 0:  # free space, to the end; its size counts its own head
                _check(length == end - start, "free space in a collection of texts")
                break
            start += 16 + -(-length // 8) * 8
            _check(number not in texts and start <= end, "collection of texts")
            texts[number] = length
        return texts

    def _visit(self, address: int, length: int) -> int:
        self._inside(address, length)
        self._step()
        _check(address not in self._parts, "part that is used twice")
        self._parts[address] = length
        return address

    def _step(self) -> None:
        self._steps += 1
        _check(self._steps <= _MOST_PARTS, "number of parts")

    def _inside(self, address: int, length: int) -> None:
        _check(length <= self._end - address, "part outside the file")

    def _unpack(self, form: str, address: int) -> tuple[Any, ...]:
        self._inside(address, struct.calcsize(form))
        return struct.unpack_from(form, self._content, address)


def _check(condition: object, what: str) -> None:
    if not condition:
        raise ValueError(what)
