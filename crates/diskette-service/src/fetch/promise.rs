//! What the bytes are to be: the publisher's checksum file, and whether it is the publisher's.

use std::thread;
use std::time::Duration;

use diskette_wire::digest_of;

use super::Import;
use super::client::{Ask, Client, failed, may_pass, strong_etag};
use crate::problem::{CHECKSUM_MISMATCH, Problem, Result};
use crate::settings::Settings;

/// Most bytes of a checksum file.
const LONGEST: u64 = 4 << 20;
/// How often a server is asked for one.
const TRIES: u32 = 3;

/// What a checksum file says of an image.
#[derive(Debug)]
pub(crate) struct CheckSums {
    /// 64 digits (SHA-256) or 128 (SHA-512).
    pub(crate) digest: String,
}

/// What the publisher's checksum file says, if there is one.
pub(crate) fn promised(settings: &Settings, import: &Import) -> Result<Option<CheckSums>> {
    let Some(url) = &import.checksum_url else {
        return Ok(None);
    };
    let signed = import.checksum_signature.as_ref();
    let client = Client::new(settings, signed.is_some());
    let mut text = small(&client, url)?;
    if let Some(signed) = signed {
        let beside = match &signed.url {
            Some(url) => Some(small(&client, url)?),
            None => None,
        };
        text = signed.verified(&text, beside.as_deref())?;
    }
    let text = String::from_utf8_lossy(&text);
    let own = import.file_name();
    let name = import.checksum_name.as_deref().unwrap_or(&own);
    match digest_of(&text, name) {
        Some(digest) => Ok(Some(CheckSums { digest })),
        None => {
            let detail = format!("{url} has no digest of \"{}\"", name.escape_debug());
            Err(Problem::new(CHECKSUM_MISMATCH, detail))
        }
    }
}

/// The ETag of what an address leads to; nothing, where it is still this one.
pub(crate) fn about(settings: &Settings, url: &str, known: Option<&str>) -> Result<Option<String>> {
    // Nothing is taken that needs a digest.
    let client = Client::new(settings, true);
    let answer = client.ask(&Ask::about(url, known))?;
    Ok(strong_etag(&answer).filter(|_| answer.status() != 304))
}

/// A text that is held in memory.
pub(crate) fn small_text(settings: &Settings, url: &str) -> Result<String> {
    let text = small(&Client::new(settings, false), url)?;
    String::from_utf8(text).map_err(|_| failed(url, "it is no text"))
}

/// A file that is held in memory.
fn small(client: &Client, url: &str) -> Result<Vec<u8>> {
    let mut outcome = Err(failed(url, "nothing came"));
    for attempt in 0..TRIES {
        if attempt > 0 {
            thread::sleep(Duration::from_millis(200 << (2 * attempt)));
        }
        outcome = once(client, url);
        match &outcome {
            Err(problem) if may_pass(problem) => {}
            _ => break,
        }
    }
    outcome
}

fn once(client: &Client, url: &str) -> Result<Vec<u8>> {
    let mut answer = client.ask(&Ask::whole(url))?;
    if answer.status() != 200 {
        return Err(failed(url, format!("it answers {}", answer.status())));
    }
    let body = answer.body_mut().with_config().limit(LONGEST);
    body.read_to_vec().map_err(|error| failed(url, error))
}
