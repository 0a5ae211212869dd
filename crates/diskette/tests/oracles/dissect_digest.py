"""Reads disk images by dissect.hypervisor, a reader that is neither ours nor QEMU's.

usage: dissect_digest.py FORMAT IMAGE...

Prints the disk's size and the sha256 of its bytes, a line an image, or "error" and why.
"""

import hashlib
import sys
from pathlib import Path

from dissect.hypervisor.disk import qcow2, vdi, vhd, vhdx, vmdk

CHUNK = 1 << 20


def disk(kind, path):
    if kind == "vmdk":
        return vmdk.VMDK(path)
    if kind == "vhdx":
        return vhdx.VHDX(path)
    if kind == "qcow2":
        return qcow2.QCow2(path).open()
    if kind == "vdi":
        return vdi.VDI(path.open("rb")).open()
    return vhd.VHD(path.open("rb"))


def digest(stream):
    sha256 = hashlib.sha256()
    left = stream.size
    stream.seek(0)
    while left:
        data = stream.read(min(left, CHUNK))
        if not data:
            raise EOFError(f"{left} bytes are missing")
        sha256.update(data)
        left -= len(data)
    return sha256.hexdigest()


def main(kind, paths):
    for path in paths:
        try:
            stream = disk(kind, Path(path))
            print(stream.size, digest(stream), flush=True)
        except Exception as error:  # whatever it is, the caller tells
            print("error", type(error).__name__, str(error).replace("\n", " "), flush=True)


main(sys.argv[1], sys.argv[2:])
