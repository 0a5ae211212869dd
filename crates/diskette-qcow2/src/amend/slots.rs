//! Passphrases of an encrypted image added and taken away.

use std::sync::Arc;

use diskette_core::{Error, OpenContext, Options, Result, StorageMut};
use diskette_crypto::luks::{Amendment, KeySlots, slot_option_specs};

use crate::FORMAT;
use crate::encryption::SECRET;
use crate::header::{Encryption, Header};

/// What the names of options of key slots begin with.
pub(super) const PREFIX: &str = "encrypt.";

/// Changes key slots; the data stay as they are.
pub(super) fn change(
    image: Arc<dyn StorageMut>,
    header: &Header,
    options: &Options,
    force: bool,
    cx: &OpenContext<'_>,
) -> Result<()> {
    if let Some((name, _)) = options.iter().find(|(name, _)| *name == "encrypt.format") {
        return Err(invalid(name, "it is settled when an image is made"));
    }
    options.expect_only(FORMAT, slot_option_specs(true))?;
    let (offset, len) = match header.encryption {
        Encryption::Luks { offset, len } => (offset, len),
        Encryption::None => return Err(invalid("encrypt.state", "the image is not encrypted")),
        Encryption::Aes => {
            return Err(invalid("encrypt.state", "the old AES has no key slots"));
        }
    };
    let amendment = Amendment {
        format: FORMAT,
        prefix: PREFIX,
        options,
        secrets: cx.secrets,
        force,
        limits: cx.limits,
    };
    let passphrase = cx.secrets.asked_for(FORMAT, cx.options, SECRET.name)?;
    amendment.apply(&mut KeySlots::open(image, offset, len)?, passphrase)
}

fn invalid(name: &str, why: &'static str) -> Error {
    Error::invalid_option(FORMAT, name, why)
}
