"""The codec bits of every batch in a partition's segments, as they lie on disk.

    codecs_on_disk.py DIRECTORY NAME     ends with 1 unless every batch, and one at least, has the codec NAME
"""

import pathlib
import struct
import sys

NAMES = ("none", "gzip", "snappy", "lz4", "zstd")


def codecs(directory):
    """Names by batch, oldest first."""
    found = []
    for segment in sorted(pathlib.Path(directory).glob("*.log")):
        data = segment.read_bytes()
        at = 0
        while at + 61 <= len(data):
            (length,) = struct.unpack_from(">i", data, at + 8)
            magic, attributes = data[at + 16], struct.unpack_from(">h", data, at + 21)[0]
            assert magic == 2, f"magic {magic} at {at} of {segment}"
            found.append(NAMES[attributes & 7])
            at += 12 + length
        assert at == len(data), f"{segment} ends within a batch"
    return found


if __name__ == "__main__":
    stored = codecs(sys.argv[1])
    print(f"{sys.argv[1]}: {len(stored)} batches, {set(stored)}")
    sys.exit(set(stored) != {sys.argv[2]})
