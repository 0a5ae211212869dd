//! Images that exist are changed: held against disks in memory, against qemu-img and qemu-io, and cut off by crashes.

mod ahead;
mod amended;
mod bitmaps;
mod crash;
mod dangers;
#[path = "../write/driver.rs"]
#[allow(dead_code, reason = "shared with the tests of new images")]
mod driver;
mod interop;
mod model;
mod places;
mod sealed;
mod snapshots;
mod support;
