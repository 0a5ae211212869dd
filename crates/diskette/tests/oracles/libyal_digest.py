"""Reads disk images by libyal's libvhdi and libvmdk, readers that are neither ours nor QEMU's.

usage: libyal_digest.py FORMAT IMAGE...

Prints the disk's size and the sha256 of its bytes, a line an image, or "error" and why.
"""

import hashlib
import sys

import pyvhdi
import pyvmdk

CHUNK = 1 << 20


def disk(kind, path):
    if kind == "vmdk":
        handle = pyvmdk.handle()
        handle.open(path)
        handle.open_extent_data_files()
        return handle
    file = pyvhdi.file()
    file.open(path)
    return file


def digest(stream):
    sha256 = hashlib.sha256()
    left = stream.get_media_size()
    while left:
        data = stream.read_buffer(min(left, CHUNK))
        if not data:
            raise EOFError(f"{left} bytes are missing")
        sha256.update(data)
        left -= len(data)
    return sha256.hexdigest()


def main(kind, paths):
    for path in paths:
        try:
            stream = disk(kind, path)
            print(stream.get_media_size(), digest(stream), flush=True)
        except Exception as error:  # whatever it is, the caller tells
            print("error", type(error).__name__, str(error).replace("\n", " "), flush=True)


main(sys.argv[1], sys.argv[2:])
