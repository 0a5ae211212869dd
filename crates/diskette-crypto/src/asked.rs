//! The secret that an image is opened by, and what is said where it is missing or wrong.

use diskette_core::{Error, OpenContext, Options, Result, Secrets};

/// The option by which a format is told which secret it is to take. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretOption {
    /// The format's name.
    pub format: &'static str,
    /// The option's name, as qemu-img has it.
    pub name: &'static str,
}

impl SecretOption {
    /// The secret for an image that is opened.
    pub fn of_context<'a>(&self, cx: &OpenContext<'a>) -> Result<&'a [u8]> {
        self.of(cx.options, cx.secrets)
    }

    /// The secret that options name.
    pub fn of<'a>(&self, options: &Options, secrets: &'a Secrets) -> Result<&'a [u8]> {
        let secret = secrets.asked_for(self.format, options, self.name)?;
        secret.ok_or_else(|| self.error("not given, and the image is encrypted"))
    }

    /// The error that the secret is not the right one.
    #[must_use]
    pub fn wrong(&self) -> Error {
        self.error("this secret opens none of the key slots")
    }

    fn error(&self, why: &'static str) -> Error {
        Error::invalid_option(self.format, self.name, why)
    }
}
