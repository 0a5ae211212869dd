//! What is changed of an image that exists besides its disk: what lies below it, and some of its options.
//!
//! Every change is one write of a few bytes in one sector, with all that it leads to on stable storage before.

mod backing;
mod head;
mod options;
mod slots;
mod version;
mod widths;

pub(crate) use self::head::Head;
