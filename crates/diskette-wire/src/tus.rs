//! Headers of tus 1.0, by which uploads are resumed: metadata, lengths and offsets, checksums.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Result, WireError};
use crate::range;

/// What `Upload-Metadata` says: names, and their values, which are in base64; pairs stand between commas.
pub fn metadata(text: &str) -> Result<Vec<(&str, String)>> {
    let pairs = text.split(',').map(str::trim);
    let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD.decode(value.trim()).ok();
        let value = value.and_then(|value| String::from_utf8(value).ok());
        Ok((name, value.ok_or(NO_TEXT)?))
    });
    pairs.collect()
}

/// The number of bytes in `header`, which is `Upload-Length` or `Upload-Offset`.
pub fn number(header: &'static str, text: &str) -> Result<u64> {
    let why = "is no number";
    range::number(text).ok_or(WireError::Header { header, why })
}

/// What `Upload-Checksum` promises of the bytes of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum<'a> {
    algorithm: Algorithm,
    /// In base64.
    digest: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha1,
    Sha256,
}

impl<'a> Checksum<'a> {
    /// The algorithms that are taken, as `Tus-Checksum-Algorithm` lists them.
    pub const ALGORITHMS: &'static str = "sha1,sha256";

    /// Reads the header: an algorithm, a blank, a digest in base64.
    pub fn parse(text: &'a str) -> Result<Self> {
        let (algorithm, digest) = text.split_once(' ').unwrap_or((text, ""));
        let algorithm = match algorithm {
            "sha1" => Algorithm::Sha1,
            "sha256" => Algorithm::Sha256,
            _ => return Err(NO_ALGORITHM),
        };
        Ok(Self { algorithm, digest })
    }

    /// Whether these are the bytes that were promised.
    #[must_use]
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let found = match self.algorithm {
            Algorithm::Sha1 => STANDARD.encode(Sha1::digest(bytes)),
            Algorithm::Sha256 => STANDARD.encode(Sha256::digest(bytes)),
        };
        found == self.digest
    }
}

const NO_TEXT: WireError = WireError::Header {
    header: "a value of Upload-Metadata",
    why: "is no text in base64",
};
const NO_ALGORITHM: WireError = WireError::Header {
    header: "Upload-Checksum",
    why: "is of sha1 or sha256",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_pairs_by_commas() {
        let found = metadata("filename cm91dGVyLnZtZGs=, strict ,,name w7w=").unwrap();
        let text = |text: &str| text.to_owned();
        let expected = [
            ("filename", text("router.vmdk")),
            ("strict", text("")),
            ("name", text("ü")),
        ];
        assert_eq!(found, expected);
        assert_eq!(metadata("").unwrap(), []);
        for wrong in ["name ?", "name cm9=", "name /w==", "name cm9 1dGVy"] {
            assert_eq!(metadata(wrong), Err(NO_TEXT), "{wrong}");
        }
    }

    #[test]
    fn a_number_is_digits_alone() {
        assert_eq!(number("Upload-Length", "0012"), Ok(12));
        for wrong in ["", "+1", "-1", " 1", "1 ", "0x1", "18446744073709551616"] {
            let error = number("Upload-Length", wrong).unwrap_err();
            assert_eq!(error.to_string(), "Upload-Length is no number", "{wrong:?}");
        }
    }

    #[test]
    fn a_checksum_is_of_its_bytes_alone() {
        // From the protocol's own text, and from RFC 6234.
        let sha1 = Checksum::parse("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").unwrap();
        assert!(sha1.is_of(b"hello world") && !sha1.is_of(b"hello World"));
        let sha256 = "sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        let sha256 = Checksum::parse(sha256).unwrap();
        assert!(sha256.is_of(b"abc") && !sha256.is_of(b""));
        assert!(!Checksum::parse("sha1").unwrap().is_of(b""));
        for wrong in ["", "md5 x", "SHA1 x", " sha1 x"] {
            assert_eq!(Checksum::parse(wrong), Err(NO_ALGORITHM), "{wrong:?}");
        }
    }
}
