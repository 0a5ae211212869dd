//! The subcommands: a file each, and one `run` in it.

pub(crate) mod info;
