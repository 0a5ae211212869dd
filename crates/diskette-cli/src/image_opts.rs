//! `--image-opts`: an image described by qemu's dotted options instead of a file's name.
//!
//! ```text
//!  driver=qcow2,encrypt.key-secret=sec0,file.driver=file,file.filename=disk.qcow2
//! ```
//!
//! An image is a format over a file, and nothing else: that is what is understood. Options of the format are handed to
//! it; those that only say how QEMU is to do its work (caches, nodes' names) are passed over. Names that begin with
//! `json:` say the same in other words.

use std::path::PathBuf;

use diskette::core::{Error, Result};

use crate::args::split_at_commas;
use crate::json_name;

/// An image as dotted options describe it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ImageOpts {
    /// The file that holds it.
    pub(crate) path: PathBuf,
    /// Its format, if it is named.
    pub(crate) format: Option<String>,
    /// Whether other programs may write it meanwhile.
    pub(crate) force_share: bool,
    /// The format's own options.
    pub(crate) options: Vec<(String, String)>,
}

impl ImageOpts {
    /// What a description says.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        const SOURCE: &str = "--image-opts";
        let mut pairs = Vec::new();
        for pair in split_at_commas(text) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(Error::invalid_option(
                    SOURCE,
                    pair,
                    "an option without a value; driver=..,file.filename=.. names a file",
                ));
            };
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Self::of_pairs(SOURCE, pairs)
    }

    /// What a name that begins with `json:` says; `None` for any other.
    pub(crate) fn of_json_name(name: &str) -> Option<Result<Self>> {
        let pairs = json_name::pairs(name)?;
        Some(pairs.and_then(|pairs| Self::of_pairs(json_name::SOURCE, pairs)))
    }

    fn of_pairs(source: &'static str, pairs: Vec<(String, String)>) -> Result<Self> {
        let invalid = |name: &str, why| Error::invalid_option(source, name, why);
        let mut path = None;
        let (mut format, mut force_share, mut options) = (None, false, Vec::new());
        for (name, value) in pairs {
            let (name, value) = (name.as_str(), value.as_str());
            match name {
                "file.filename" | "filename" => path = Some(PathBuf::from(value)),
                "file.driver" if matches!(value, "file" | "host_device") => {}
                "file.driver" => {
                    return Err(invalid(name, "only file and host_device are supported"));
                }
                "driver" if matches!(value, "file" | "host_device") => {
                    format = Some("raw".to_owned());
                }
                "driver" => format = Some(value.to_owned()),
                "force-share" => force_share = matches!(value, "on" | "yes" | "true" | "y"),
                _ if PASSED_OVER.contains(&name.trim_start_matches("file.")) => {}
                _ if OF_FORMATS
                    .iter()
                    .any(|end| name.trim_start_matches("backing.") == *end) =>
                {
                    options.push((name.to_owned(), value.to_owned()));
                }
                _ => return Err(invalid(name, "not supported")),
            }
        }
        Ok(Self {
            path: path.ok_or_else(|| invalid("file.filename", "not given"))?,
            format,
            force_share,
            options,
        })
    }
}

/// Options of formats, of the image or, behind "backing.", of those below it.
const OF_FORMATS: &[&str] = &["encrypt.key-secret", "key-secret", "force_size_calc"];

/// How QEMU is to do its work. `encrypt.format` is what the image itself says.
const PASSED_OVER: &[&str] = &[
    "aio",
    "auto-read-only",
    "cache.direct",
    "cache.no-flush",
    "detect-zeroes",
    "discard",
    "encrypt.format",
    "locking",
    "node-name",
    "read-only",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_over_a_file_is_understood() {
        let text = "driver=qcow2,file.driver=file,file.filename=a,,b,encrypt.key-secret=s,file.locking=off,force-share=on";
        let found = ImageOpts::parse(text).unwrap();
        assert_eq!(
            found,
            ImageOpts {
                path: "a,b".into(),
                format: Some("qcow2".to_owned()),
                force_share: true,
                options: vec![("encrypt.key-secret".to_owned(), "s".to_owned())],
            }
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_name() {
        for (text, name) in [
            ("disk.qcow2", "disk.qcow2"),
            ("driver=qcow2", "file.filename"),
            ("driver=qcow2,file.driver=nbd", "file.driver"),
            ("driver=raw,file.filename=x,offset=512", "offset"),
            (
                "driver=qcow2,file.filename=x,backing.driver=raw",
                "backing.driver",
            ),
        ] {
            let error = ImageOpts::parse(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("--image-opts: option {name}: ")),
                "{error}"
            );
        }
    }
}
