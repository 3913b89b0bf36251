"""Run by tests/test_store.py in a process of its own: build and read a store that its memory could not hold.

    python larger_than_memory.py PHOTO COUNT FOLDER

Linux counts private memory against RLIMIT_DATA and shared mappings of files not.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from mtkd_dist.data import Photo, build_store

ROOM = 64 << 20


def main(photo: str, count: int, folder: str) -> None:
    status = Path("/proc/self/status").read_text().split()
    used = 1024 * int(status[status.index("VmData:") + 1])
    resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM, used + ROOM))
    store = build_store([Photo(photo)] * count, 2, folder)
    pixels = sum(store.hr(i).nbytes for i in range(len(store)))
    assert pixels > 1.5 * ROOM
    sums = {int(store.hr(i).sum(dtype="int64")) for i in range(len(store))}
    held = []
    try:
        for i in range(len(store)):
            held.append(store.hr(i).copy())
    except MemoryError:
        print(f"read all {len(store)} of {pixels} bytes with {len(sums)} sum; memory for {len(held)}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
