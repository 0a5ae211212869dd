//! Images that exist are changed: held against disks in memory, against qemu-img and qemu-io, and cut off by crashes.

mod interop;
mod places;
mod support;
