//! ASCII armour, and text that is signed within itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A text that is signed within itself.
pub(super) struct Clearsigned {
    /// As it was signed: lines end in CR LF, and have no blanks at their ends.
    pub(super) signed: Vec<u8>,
    /// As it is read.
    pub(super) shown: Vec<u8>,
    /// The packets of the signature.
    pub(super) signature: Vec<u8>,
}

const BEGIN_TEXT: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";

/// The packets in armour; all of them, where there are several pieces. What is in none is given as it is.
pub(super) fn dearmoured(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        return Some(bytes.to_vec());
    }
    let mut lines = std::str::from_utf8(bytes).ok()?.lines().map(str::trim_end);
    let mut packets = Vec::new();
    while lines
        .by_ref()
        .any(|line| line.starts_with("-----BEGIN PGP "))
    {
        // Headers end with an empty line.
        lines.by_ref().find(|line| line.is_empty())?;
        let mut digits = String::new();
        for line in lines.by_ref() {
            if line.starts_with("-----END") {
                break;
            }
            // A line that begins so is a sum of the others.
            if !line.starts_with('=') {
                digits.push_str(line);
            }
        }
        packets.extend(STANDARD.decode(digits).ok()?);
    }
    (!packets.is_empty()).then_some(packets)
}

/// The parts of a text that is signed within itself; nothing, where it is not. What stands before and after is not a part.
pub(super) fn clearsigned(text: &str) -> Option<Clearsigned> {
    let mut lines = text.lines();
    lines.by_ref().find(|line| line.trim_end() == BEGIN_TEXT)?;
    // Which hash: the signature says so itself.
    lines.by_ref().find(|line| line.trim_end().is_empty())?;
    let mut read = Vec::new();
    let mut is_closed = false;
    for line in lines.by_ref() {
        if line.trim_end() == BEGIN_SIGNATURE {
            is_closed = true;
            break;
        }
        let line = line.strip_prefix("- ").unwrap_or(line);
        read.push(line.trim_end_matches([' ', '\t', '\r']));
    }
    if !is_closed {
        return None;
    }
    let rest: Vec<_> = lines.collect();
    let armoured = format!("{BEGIN_SIGNATURE}\n{}\n", rest.join("\n"));
    Some(Clearsigned {
        signed: read.join("\r\n").into_bytes(),
        shown: read.join("\n").into_bytes(),
        signature: dearmoured(armoured.as_bytes())?,
    })
}
