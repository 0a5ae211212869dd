//! The one error of the library. Each variant says who is to act.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::Role;

/// What every fallible call of the library gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be done, and who can do something about it.
///
/// The text is one line, in lower case, and names fields as the format's specification does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image breaks its format's rules. Whoever made it is to act.
    #[error("{format}: {field} at {offset:#x} is {value}, {why}")]
    Malformed {
        /// The format's name.
        format: &'static str,
        /// The field, by its name in the specification.
        field: Cow<'static, str>,
        /// Where the field lies: a host offset, in bytes.
        offset: u64,
        /// What was found there.
        value: Claim,
        /// What is wrong with it.
        why: Cow<'static, str>,
        /// Whether that is that the file ends before what the field leads to, or before the field itself.
        truncated: bool,
    },

    /// The image is sound as far as we can see, and needs what we do not have.
    #[error("{format}: {feature} is not supported")]
    Unsupported {
        /// The format's name.
        format: &'static str,
        /// What the image, or the caller, asked for.
        feature: Cow<'static, str>,
    },

    /// The image would cost more than the caller's [`Limits`](crate::Limits) allow.
    #[error("{what} would be {wanted}, over the limit of {limit}")]
    LimitExceeded {
        /// The limit's name.
        what: &'static str,
        /// What the image asked for.
        wanted: u64,
        /// What was allowed.
        limit: u64,
    },

    /// The image names another file, and the caller's [`Resolver`](crate::Resolver) will not open it.
    #[error("refused {role} \"{}\": {why}", target.escape_debug())]
    Refused {
        /// What the file is to the image.
        role: Role,
        /// The name, as the image bears it.
        target: String,
        /// Why it was refused.
        why: Cow<'static, str>,
    },

    /// An overlay does not say of what format its backing image is, and the caller did not ask for probing it.
    #[error("the format of {role} \"{}\" is not named", target.escape_debug())]
    UnnamedFormat {
        /// What the file is to the image.
        role: Role,
        /// The name, as the image bears it.
        target: String,
    },

    /// A backing image is not the one that the overlay was made over. The caller may overrule.
    #[error(
        "{format}: the backing image's {what} is {found}, but the overlay was made over {expected}"
    )]
    WrongBacking {
        /// The overlay's format.
        format: &'static str,
        /// What tells one image from another here: "CID", "UUID" ...
        what: &'static str,
        /// What the overlay expects.
        expected: String,
        /// What the backing image says of itself.
        found: String,
    },

    /// A file bears the marks of two formats. The caller is to name one.
    #[error("{storage} could be {first} or {second}: name the format")]
    Ambiguous {
        /// The file.
        storage: String,
        /// One of the formats.
        first: &'static str,
        /// The other.
        second: &'static str,
    },

    /// A container holds several disks. The caller is to choose one.
    #[error("{storage} holds several disks: {}", listed(disks))]
    SeveralDisks {
        /// The container's name.
        storage: String,
        /// The disks' names, in their order.
        disks: Vec<String>,
    },

    /// No format has this name.
    #[error("unknown format \"{}\"", name.escape_debug())]
    UnknownFormat {
        /// The name.
        name: String,
    },

    /// An option that the format does not know, or a value that it does not take.
    #[error("{format}: option {name}: {why}")]
    InvalidOption {
        /// The format's name.
        format: &'static str,
        /// The option's name.
        name: String,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },

    /// The image has no such snapshot, or the like.
    #[error("no {what} \"{}\"", name.escape_debug())]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its name.
        name: String,
    },

    /// Something cannot be done with a persistent bitmap, as it is. The caller is to act.
    #[error("bitmap \"{}\" {why}", name.escape_debug())]
    Bitmap {
        /// Its name.
        name: String,
        /// What is the matter with it: "already exists".
        why: Cow<'static, str>,
    },

    /// The caller asked for bytes that the disk does not have.
    #[error("bytes {offset:#x}+{len:#x} lie outside of the disk's {size:#x}")]
    OutOfRange {
        /// Guest offset.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// The disk's size.
        size: u64,
    },

    /// The machine could not read or write.
    #[error("{storage}: cannot {op} {len} bytes at {offset:#x}")]
    Io {
        /// The storage's name.
        storage: String,
        /// What was tried: "read", "write" ...
        op: &'static str,
        /// Host offset.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Why.
        source: io::Error,
    },

    /// The caller asked for an end.
    #[error("cancelled")]
    Cancelled,

    /// A worker of ours panicked; what it was doing is undone or unfinished. A fault of ours.
    #[error("internal error: {}", message.escape_debug())]
    Panicked {
        /// What the panic said.
        message: String,
    },

    /// A file could not be opened, created or renamed.
    #[error("cannot {op} {path}")]
    File {
        /// What was tried: "open", "create" ...
        op: &'static str,
        /// The file's path.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Disks by number and name, as many as one can read at a glance.
fn listed(disks: &[String]) -> String {
    const MOST: usize = 16;
    let shown = disks.iter().take(MOST).enumerate();
    let mut shown: Vec<String> = shown
        .map(|(index, name)| format!("{index} ({})", Claim::from(name.as_str())))
        .collect();
    if disks.len() > MOST {
        shown.push(format!("and {} more", disks.len() - MOST));
    }
    shown.join(", ")
}

/// A value found in an image: a number, or text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// A number. Shown in hexadecimal.
    Number(u64),
    /// Text, or bytes taken for text. Shown in quotes, escaped, and cut where it is long.
    Text(String),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 80;
        match self {
            Self::Number(number) => write!(f, "{number:#x}"),
            Self::Text(text) if text.chars().count() > LONGEST => {
                let head: String = text.chars().take(LONGEST).collect();
                write!(f, "\"{}...\"", head.escape_debug())
            }
            Self::Text(text) => write!(f, "\"{}\"", text.escape_debug()),
        }
    }
}

impl From<u64> for Claim {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Claim {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Error {
    /// The error for something that `format` does not do.
    pub fn unsupported(format: &'static str, feature: impl Into<Cow<'static, str>>) -> Self {
        Self::Unsupported {
            format,
            feature: feature.into(),
        }
    }

    /// The error for a field whose value breaks the format's rules.
    pub fn malformed(
        format: &'static str,
        field: impl Into<Cow<'static, str>>,
        offset: u64,
        value: impl Into<Claim>,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Malformed {
            format,
            field: field.into(),
            offset,
            value: value.into(),
            why: why.into(),
            truncated: false,
        }
    }

    /// The same error of a field, but that the file ends too early is what it tells: one that was cut off has it.
    #[must_use]
    pub fn truncated(mut self) -> Self {
        if let Self::Malformed { truncated, .. } = &mut self {
            *truncated = true;
        }
        self
    }

    /// The error for a persistent bitmap with which something cannot be done.
    pub fn bitmap(name: impl Into<String>, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Bitmap {
            name: name.into(),
            why: why.into(),
        }
    }

    /// The error for an option that `format` cannot take.
    pub fn invalid_option(
        format: &'static str,
        name: impl Into<String>,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::InvalidOption {
            format,
            name: name.into(),
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_field_is_told_in_one_line() {
        let error = Error::malformed(
            "qcow2",
            "header.cluster_bits",
            0x14,
            0x3f,
            "not within 9 to 21",
        );
        assert_eq!(
            error.to_string(),
            "qcow2: header.cluster_bits at 0x14 is 0x3f, not within 9 to 21"
        );
    }

    #[test]
    fn text_from_an_image_is_escaped_and_cut() {
        let error = Error::Refused {
            role: Role::Backing,
            target: "/etc/\n\u{1b}[31m".into(),
            why: "no".into(),
        };
        assert_eq!(
            error.to_string(),
            "refused backing file \"/etc/\\n\\u{1b}[31m\": no"
        );
        assert!(Claim::from("x".repeat(1000).as_str()).to_string().len() < 100);
    }
}
