//! Signatures of checksum files, by keys that the catalog names: OpenPGP (RFC 9580), as far as publishers of images use it.
//!
//! Keys and signatures of version 4, RSA and Ed25519, SHA-256, SHA-384 and SHA-512; in ASCII armour or without; beside the
//! text, or around it (clearsigned). What else there is in OpenPGP is refused. A key that is named is trusted: whether it
//! has been revoked, or has expired, is for whoever writes the catalog to know.

mod armour;
mod packet;

use ring::signature::{
    ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

use crate::error::{Result, WireError};
use armour::{clearsigned, dearmoured};
use packet::{Key, Packets, PublicKey, Signed};

/// Who has signed a checksum file, and where the signature is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Signature {
    /// Where the signature lies, in a file of its own. Without, it stands around the text.
    pub url: Option<String>,
    /// Public keys in ASCII armour, or `builtin:` and the name of one that comes with the program.
    pub keys: Vec<String>,
}

/// Signatures of one text that are looked at: for each the whole text is hashed, and whoever sends it may send any number.
const MOST_SIGNATURES: usize = 16;

/// Keys that come with the program: taken from Debian's packages `ubuntu-keyring` and `distribution-gpg-keys`.
const BUILT_IN: &[(&str, &str)] = &[
    (
        "ubuntu-cloudimage",
        include_str!("keys/ubuntu-cloudimage.asc"),
    ),
    ("fedora-44", include_str!("keys/fedora-44.asc")),
];

impl Signature {
    /// That the keys can be used.
    pub fn check_keys(&self) -> Result<()> {
        self.known_keys().map(|_| ())
    }

    /// The text that was signed, if one of the keys has signed it. `beside` is the signature's file, if it has one.
    pub fn verified(&self, text: &[u8], beside: Option<&[u8]>) -> Result<Vec<u8>> {
        let keys = self.known_keys()?;
        let (signed, shown, packets) = match beside {
            Some(beside) => (text.to_vec(), text.to_vec(), dearmoured(beside)),
            None => {
                let parts = std::str::from_utf8(text).ok().and_then(clearsigned);
                let parts = parts.ok_or_else(|| refused("it is not signed"))?;
                (parts.signed, parts.shown, Some(parts.signature))
            }
        };
        let packets = packets.ok_or_else(|| refused("the signature is not understood"))?;
        let mut problem = refused("there is no signature");
        let signatures = Packets::of(&packets).filter_map(Signed::of);
        for found in signatures.take(MOST_SIGNATURES) {
            match found.and_then(|found| judged(&found, &keys, &signed)) {
                Ok(()) => return Ok(shown),
                Err(why) => problem = refused(&why),
            }
        }
        Err(problem)
    }

    fn known_keys(&self) -> Result<Vec<PublicKey>> {
        let mut keys = Vec::new();
        for text in &self.keys {
            let text = match text.strip_prefix("builtin:") {
                Some(name) => {
                    let mut known = BUILT_IN.iter();
                    let found = known.find(|(known, _)| *known == name);
                    let wrong = || format!("none is called \"{}\"", name.escape_debug());
                    found.ok_or_else(|| wrong_key(&wrong()))?.1
                }
                None => text,
            };
            let bytes =
                dearmoured(text.as_bytes()).ok_or_else(|| wrong_key("it is not understood"))?;
            keys.extend(Packets::of(&bytes).filter_map(PublicKey::of));
        }
        match keys.is_empty() {
            true => Err(wrong_key(
                "there is none, or none of a kind that is understood",
            )),
            false => Ok(keys),
        }
    }
}

fn refused(why: &str) -> WireError {
    let why = why.to_owned();
    WireError::Signature { why }
}

fn wrong_key(why: &str) -> WireError {
    let why = why.to_owned();
    WireError::Key { why }
}

fn judged(signed: &Signed<'_>, keys: &[PublicKey], text: &[u8]) -> Result<(), String> {
    let mut known = keys.iter();
    let key = known.find(|key| signed.issuer == Some(key.id));
    let key = key.ok_or_else(|| match signed.issuer {
        Some(id) => format!("it is signed by the key {id:016X}, which is not named"),
        None => "it does not say who has signed it".to_owned(),
    })?;
    let message = signed.message(text)?;
    let good = match (&key.key, signed.hash) {
        (Key::Rsa { n, e }, hash) => {
            let kind = match hash {
                8 => &RSA_PKCS1_2048_8192_SHA256,
                9 => &RSA_PKCS1_2048_8192_SHA384,
                10 => &RSA_PKCS1_2048_8192_SHA512,
                _ => return Err(format!("hash {hash} is not taken")),
            };
            let value = signed.rsa_value(n.len())?;
            RsaPublicKeyComponents { n, e }.verify(kind, &message, &value)
        }
        (Key::Ed25519(point), hash) => {
            // What is signed is the digest of the message.
            let digest = packet::digest(hash, &message)?;
            UnparsedPublicKey::new(&ED25519, point).verify(&digest, &signed.ed25519_value()?)
        }
    };
    good.map_err(|_| format!("the signature by the key {:016X} is wrong", key.id))
}

#[cfg(test)]
mod tests;
