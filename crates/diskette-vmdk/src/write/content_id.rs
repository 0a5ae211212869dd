//! The content's id of a new image, by which a delta link knows its parent.

use diskette_core::{Error, Fingerprint, NewId, Options, Result};

use crate::FORMAT;
use crate::descriptor::NO_PARENT;

/// How a new image gets it.
#[derive(Clone, Copy, Debug)]
pub(super) enum ContentId {
    /// This one.
    Given(u32),
    /// As other ids are made: from the content, or by chance.
    Made(NewId),
}

impl ContentId {
    pub(super) fn option(options: &Options) -> Result<Self> {
        let wrong = |why| Error::invalid_option(FORMAT, "cid", why);
        let text = match options.text("cid") {
            None | Some("derived") => return Ok(Self::Made(NewId::Derived)),
            Some("random") => return Ok(Self::Made(NewId::Random)),
            Some(text) => text,
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u32::from_str_radix(text, 16) {
            Ok(NO_PARENT) => Err(wrong("ffffffff stands for no image")),
            Ok(cid) if digits => Ok(Self::Given(cid)),
            Ok(_) | Err(_) => Err(wrong(
                "none of derived, random and up to 8 hexadecimal digits",
            )),
        }
    }

    /// The id of an image that holds `content` in a disk of `size` bytes, and is `what` besides.
    pub(super) fn settle(self, content: &Fingerprint, size: u64, what: &str) -> u32 {
        let made = match self {
            Self::Given(cid) => return cid,
            Self::Made(made) => made.settle(content, size, what),
        };
        match made.as_fields().0 {
            // What no image has, and what VMware gives to those that nobody has written to.
            NO_PARENT | NEVER_WRITTEN => 1,
            id => id,
        }
    }
}

const NEVER_WRITTEN: u32 = 0xffff_fffe;
