//! Compress or decompress one chunk of a disk image.
