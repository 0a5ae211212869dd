//! Packets: public keys and signatures of version 4. Whatever stands in them, nothing is read behind their ends.

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The packets of a file, in their order: the tag of each, and its body.
pub(super) struct Packets<'a> {
    rest: &'a [u8],
}

/// A packet.
pub(super) struct Packet<'a> {
    tag: u8,
    body: &'a [u8],
}

impl<'a> Packets<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    /// What is cut off, or in pieces of unknown length, ends it.
    fn next(&mut self) -> Option<Packet<'a>> {
        let (&first, rest) = self.rest.split_first()?;
        let (tag, len, rest) = match (first & 0x80, first & 0x40) {
            (0, _) => return None,
            (_, 0) => {
                let width = 1_usize << (first & 3);
                let (len, rest) = number(rest, width).filter(|_| width <= 4)?;
                ((first >> 2) & 15, len, rest)
            }
            _ => {
                let (len, rest) = length(rest)?;
                (first & 63, len, rest)
            }
        };
        let (body, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some(Packet { tag, body })
    }
}

/// A public key, or a key that belongs to one.
#[derive(Debug)]
pub(super) struct PublicKey {
    /// The last eight bytes of its fingerprint.
    pub(super) id: u64,
    pub(super) key: Key,
}

/// What it is made of. Complete by nature.
#[derive(Debug)]
pub(super) enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ed25519(Vec<u8>),
}

const PUBLIC_KEY: u8 = 6;
const PUBLIC_SUBKEY: u8 = 14;
const SIGNATURE: u8 = 2;

impl PublicKey {
    /// Nothing, where it is none, or one of a kind that is not taken.
    pub(super) fn of(packet: Packet<'_>) -> Option<Self> {
        if ![PUBLIC_KEY, PUBLIC_SUBKEY].contains(&packet.tag) || packet.body.first() != Some(&4) {
            return None;
        }
        let algorithm = *packet.body.get(5)?;
        let material = packet.body.get(6..)?;
        let key = match algorithm {
            1 | 3 => {
                let (n, rest) = integer(material)?;
                let (e, _) = integer(rest)?;
                Key::Rsa {
                    n: n.to_vec(),
                    e: e.to_vec(),
                }
            }
            22 => {
                // EdDSA over Ed25519, as it was before RFC 9580.
                let point = material.strip_prefix(b"\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01")?;
                let (point, _) = integer(point)?;
                Key::Ed25519(point.strip_prefix(&[0x40])?.to_vec())
            }
            27 => Key::Ed25519(material.get(..32)?.to_vec()),
            _ => return None,
        };
        let mut fingerprint = Sha1::new();
        fingerprint.update([0x99]);
        fingerprint.update(u16::try_from(packet.body.len()).ok()?.to_be_bytes());
        fingerprint.update(packet.body);
        let fingerprint = fingerprint.finalize();
        let id = fingerprint.last_chunk::<8>()?;
        Some(Self {
            id: u64::from_be_bytes(*id),
            key,
        })
    }
}

/// A signature of a document.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    /// The id of the key that has made it.
    pub(super) issuer: Option<u64>,
    pub(super) hash: u8,
    kind: u8,
    algorithm: u8,
    /// From the version to the end of what is signed with the text.
    head: &'a [u8],
    value: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Nothing, where it is none; an error, where it is one that is not taken.
    pub(super) fn of(packet: Packet<'a>) -> Option<Result<Self, String>> {
        if packet.tag != SIGNATURE {
            return None;
        }
        let parsed = Self::parsed(packet.body);
        Some(parsed.ok_or_else(|| "the signature is of a kind that is not taken".to_owned()))
    }

    fn parsed(body: &'a [u8]) -> Option<Self> {
        let &[4, kind, algorithm, hash, ..] = body else {
            return None;
        };
        let (len, rest) = number(body.get(4..)?, 2)?;
        let (with_text, rest) = rest.split_at_checked(len)?;
        let (len, rest) = number(rest, 2)?;
        let (beside, rest) = rest.split_at_checked(len)?;
        Some(Self {
            // The fingerprint, which is signed, goes before the hint, which may not be.
            issuer: issuer(with_text).or_else(|| issuer(beside)),
            hash,
            kind,
            algorithm,
            head: body.get(..6 + with_text.len())?,
            // Two bytes of the digest, by which one that is wrong is soon seen.
            value: rest.get(2..)?,
        })
    }

    /// What was hashed: the text, and the signature's own head.
    pub(super) fn message(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let mut message = match self.kind {
            0 => text.to_vec(),
            1 => with_line_ends(text),
            kind => {
                return Err(format!(
                    "a signature of the kind {kind:#04x} is not one of a text"
                ));
            }
        };
        message.extend_from_slice(self.head);
        message.extend_from_slice(&[4, 0xff]);
        let len = u32::try_from(self.head.len()).map_err(|_| "it is too long".to_owned())?;
        message.extend_from_slice(&len.to_be_bytes());
        Ok(message)
    }

    /// As long as the modulus.
    pub(super) fn rsa_value(&self, len: usize) -> Result<Vec<u8>, String> {
        let value = integer(self.value).filter(|_| [1, 3].contains(&self.algorithm));
        let (value, _) = value.ok_or("it is not signed by RSA")?;
        let zeros = len
            .checked_sub(value.len())
            .ok_or("it is longer than the key")?;
        Ok([&vec![0; zeros], value].concat())
    }

    pub(super) fn ed25519_value(&self) -> Result<Vec<u8>, String> {
        let two = || {
            let (r, rest) = integer(self.value)?;
            let (s, _) = integer(rest)?;
            let padded =
                |part: &[u8]| Some([&vec![0; 32_usize.checked_sub(part.len())?], part].concat());
            Some([padded(r)?, padded(s)?].concat())
        };
        let value = match self.algorithm {
            22 => two(),
            27 => self.value.get(..64).map(<[u8]>::to_vec),
            _ => None,
        };
        value.ok_or_else(|| "it is not signed by Ed25519".to_owned())
    }
}

/// Who has made it, by the parts of a signature.
fn issuer(mut parts: &[u8]) -> Option<u64> {
    let mut hint = None;
    while let Some((len, rest)) = length(parts) {
        let (part, rest) = rest.split_at_checked(len)?;
        parts = rest;
        match part {
            [33 | 0xa1, 4, fingerprint @ ..] => {
                let id = fingerprint.last_chunk::<8>()?;
                return Some(u64::from_be_bytes(*id));
            }
            [16 | 0x90, id @ ..] => hint = id.try_into().ok().map(u64::from_be_bytes),
            _ => {}
        }
    }
    hint
}

pub(super) fn digest(hash: u8, message: &[u8]) -> Result<Vec<u8>, String> {
    match hash {
        8 => Ok(Sha256::digest(message).to_vec()),
        9 => Ok(Sha384::digest(message).to_vec()),
        10 => Ok(Sha512::digest(message).to_vec()),
        _ => Err(format!("hash {hash} is not taken")),
    }
}

/// A length of the new kind, or of a part of a signature; and what follows.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    match first {
        ..192 => Some((usize::from(first), rest)),
        192..224 => {
            let (&second, rest) = rest.split_first()?;
            Some((
                (usize::from(first) - 192) * 256 + usize::from(second) + 192,
                rest,
            ))
        }
        255 => number(rest, 4),
        _ => None,
    }
}

fn number(bytes: &[u8], width: usize) -> Option<(usize, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(width)?;
    let value = digits
        .iter()
        .fold(0_usize, |value, digit| value << 8 | usize::from(*digit));
    Some((value, rest))
}

/// A number of many digits: its length in bits, and its bytes.
fn integer(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (bits, rest) = number(bytes, 2)?;
    rest.split_at_checked(bits.div_ceil(8))
}

/// Lines that end in CR LF, as texts are signed.
fn with_line_ends(text: &[u8]) -> Vec<u8> {
    let mut ended = Vec::with_capacity(text.len());
    let mut last = 0;
    for &byte in text {
        if byte == b'\n' && last != b'\r' {
            ended.push(b'\r');
        }
        ended.push(byte);
        last = byte;
    }
    ended
}
