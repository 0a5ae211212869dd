//! Host bytes for diskette: files, memory, parts of other storages.

mod file;
mod memory;

pub use file::FileStorage;
pub use memory::MemoryStorage;
