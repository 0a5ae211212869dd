//! QCOW2 disk images: read, written, checked.
