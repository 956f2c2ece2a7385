"""The codec bits of every batch in a partition's segments, as they lie on disk.

    codecs_on_disk.py DIRECTORY NAME     ends with 1 unless every batch, and one at least, has the codec NAME

A batch of a few records does not shrink, and librdkafka sends such a one as it is: those may be plain.
"""

import pathlib
import struct
import sys

# Bytes of a batch that may be plain whatever the codec.
FEW = 200
NAMES = ("none", "gzip", "snappy", "lz4", "zstd")


def codecs(directory, wanted="none"):
    """Names by batch, oldest first, of all batches that count."""
    found = []
    for segment in sorted(pathlib.Path(directory).glob("*.log")):
        data = segment.read_bytes()
        at = 0
        while at + 61 <= len(data):
            (length,) = struct.unpack_from(">i", data, at + 8)
            magic, attributes = data[at + 16], struct.unpack_from(">h", data, at + 21)[0]
            assert magic == 2, f"magic {magic} at {at} of {segment}"
            codec = NAMES[attributes & 7]
            if codec == wanted or codec != "none" or 12 + length > FEW:
                found.append(codec)
            at += 12 + length
        assert at == len(data), f"{segment} ends within a batch"
    return found


if __name__ == "__main__":
    stored = codecs(sys.argv[1], sys.argv[2])
    print(f"{sys.argv[1]}: {len(stored)} batches, {set(stored)}")
    sys.exit(set(stored) != {sys.argv[2]})
