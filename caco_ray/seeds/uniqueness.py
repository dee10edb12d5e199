"""Does an id appear twice in a stream that is too long to keep the ids of? 8 bytes of each are kept, and the stream is read again
where two of these are equal."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import numpy as np

Item = TypeVar("Item")


def unique(read: Callable[[], Iterator[Item]], id_of: Callable[[Item], str], refuse: Callable[[Item, Item], NoReturn]) -> Iterator[Item]:
    """The items that `read` gives, the same ones each time. After the last, `refuse(first, second)` is called for two of one id."""
    hashes = array("Q")
    for item in read():
        hashes.append(_hash(id_of(item)))
        yield item
    ordered = np.sort(np.frombuffer(hashes, np.uint64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    seen: dict[str, Item] = {}
    for item in read() if suspects else ():
        if _hash(name := id_of(item)) in suspects and seen.setdefault(name, item) is not item:
            refuse(seen[name], item)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
