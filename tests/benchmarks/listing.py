"""How long a big dataset takes to open, and an epoch to start. By hand: python tests/benchmarks/listing.py [FOLDERS]

1,300,000 empty files in 1000 folders on a local disk, 2 cores, Python 3.11, torch 2.14:

    first open                1.95 s, 79 MB     (before, paths as objects: 10 to 27 s, 560 MB, scaled from 100,000)
    opened again              0.05 s, 57 MB
    order of an epoch         22 ms of a core, 5 MB; then 0.5 us a place
"""

import os
import sys
import tempfile
import time
from pathlib import Path


def resident() -> float:
    """MB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(folders: int) -> None:
    """Makes the files, opens them twice, and draws places."""
    from i2i_bridge.data.index import SETTLED
    from i2i_bridge.data.order import shuffled
    from i2i_bridge.data.sources.folders import CleanImages

    with tempfile.TemporaryDirectory() as place:
        os.environ["I2I_CACHE_DIR"] = str(Path(place) / "cache")
        for number in range(folders):
            folder = Path(place) / "images" / "train" / f"n{number:08d}"
            folder.mkdir(parents=True)
            for i in range(1300):
                (folder / f"{folder.name}_{i:05d}.JPEG").touch()
        time.sleep(SETTLED / 1e9 + 0.5)
        for what in ("first open", "opened again"):
            before, began = resident(), time.perf_counter()
            count = len(CleanImages(Path(place) / "images", "train"))
            print(f"{what:24}  {time.perf_counter() - began:.2f} s, {resident() - before:.0f} MB, {count} files")
    began = time.process_time()
    shuffled(0, count, 0, 1)
    first = time.process_time() - began
    for i in range(10_000):
        shuffled(i, count, 0, 1)
    rest, size = (time.process_time() - began - first) * 100, count * 4e-6
    print(f"{'order of an epoch':24}  {first * 1000:.0f} ms of a core, {size:.0f} MB; then {rest:.1f} us a place")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
