"""A program finds nothing of the programs before it: no text, no result, no state, in all the memory that it can read."""

import pytest

from caco_ray.sandbox import Limits, Sandbox

_HUNT = """
import ctypes, gc, os
libc = ctypes.CDLL(None, use_errno=True)
libc.sbrk.restype = ctypes.c_void_p
flip = bytes(b ^ 0x55 for b in range(256))
read_end, write_end = os.pipe()
heap_end = libc.sbrk(ctypes.c_long(0))
places = {{id(o) >> 20 for o in gc.get_objects()}} | set(range((heap_end >> 20) - 16, (heap_end >> 20) + 1))
found = pages = 0
for place in places:
    for page in range(place << 20, (place + 1) << 20, 4096):
        if libc.write(write_end, ctypes.c_void_p(page), ctypes.c_size_t(4096)) == 4096:  # EFAULT, not a crash, where nothing is mapped
            pages += 1
            found += {flipped!r} in os.read(read_end, 4096).translate(flip)
output = [pages, found]
"""


@pytest.mark.parametrize("level", ["L2", "L1"])
def test_no_trace_of_the_program_before(level: str) -> None:
    marker = "neighbour-4711-was-here"
    # The hunter never holds the marker itself, only a flipped copy, and flips what it reads.
    hunter = _HUNT.format(flipped=bytes(b ^ 0x55 for b in marker.encode()))
    leaver = f"kept = {marker!r} * 3\ninput = {{'secret': kept}}\noutput = kept\nprint(kept)\n"
    with Sandbox(level, Limits(cpu_s=20), at_most=level) as box:
        assert box.run(leaver).output == marker * 3
        hunt = box.run(hunter)
        own = box.run(leaver + hunter)
    assert hunt.status == own.status == "ok", (hunt.error, own.error)
    assert hunt.output[0] > 1000, "the hunt read too little to mean anything"
    assert hunt.output[1] == 0
    assert own.output[1] > 0, "the hunt does not find even its own text"
