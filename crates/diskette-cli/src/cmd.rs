//! The subcommands: a file each, and one `run` in it.

pub(crate) mod amend;
pub(crate) mod bench;
pub(crate) mod bitmap;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod dd;
pub(crate) mod digest;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod nbd;
pub(crate) mod rebase;
pub(crate) mod resize;
pub(crate) mod snapshot;
