//! Range requests for one file, tried again where that may help.

use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, header};

use crate::agent::agent_config;
use crate::blocks::{BLOCK, Fetch};

/// One file on a server, as it was at the beginning.
pub(crate) struct Client {
    agent: Agent,
    address: String,
    name: String,
    size: u64,
    identity: Identity,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// What tells whether the file is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Identity {
    etag: Option<String>,
    modified: Option<String>,
}

/// How often a request is tried again if nothing comes.
const TRIES: u32 = 5;
/// How long to wait before the first of these; twice as long before the next.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Why a request gave nothing.
enum Failed {
    /// It may be tried again.
    Once(io::Error),
    /// It would give nothing again.
    ForGood(io::Error),
}

impl Client {
    /// Asks for the first block, and by it for all that there is to know.
    pub(crate) fn open(address: &str) -> io::Result<(Self, Vec<u8>)> {
        let config = agent_config()?.max_redirects(5).build();
        let mut client = Self {
            agent: config.into(),
            address: address.to_owned(),
            name: shown(address),
            size: u64::MAX,
            identity: Identity::default(),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let (size, identity) = client.patiently(|| client.first_look())?;
        client.size = size;
        client.identity = identity;
        let first = client.fetch(0, size.min(BLOCK))?;
        Ok((client, first))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many requests were made, and how many bytes came.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.requests), of(&self.bytes))
    }

    /// Does something until it is done, or has failed too often.
    fn patiently<T>(&self, mut what: impl FnMut() -> Result<T, Failed>) -> io::Result<T> {
        let mut wait = FIRST_WAIT;
        for _ in 0..TRIES {
            match what() {
                Ok(done) => return Ok(done),
                Err(Failed::ForGood(error)) => return Err(error),
                Err(Failed::Once(_)) => sleep(wait),
            }
            wait *= 2;
        }
        what().map_err(|failed| match failed {
            Failed::Once(error) | Failed::ForGood(error) => error,
        })
    }

    /// The file's size, and what it is known by.
    fn first_look(&self) -> Result<(u64, Identity), Failed> {
        let response = self.request(0, 1)?;
        let headers = response.headers();
        let size = match response.status().as_u16() {
            206 => content_range(headers).map(|(_, size)| size),
            // What is empty has no first byte.
            416 if total(headers) == Some(0) => Some(0),
            200 => return Err(for_good("the server does not answer range requests")),
            _ => return Err(unexpected(&response)),
        };
        let size = size.ok_or_else(|| for_good("the server does not tell the file's size"))?;
        Ok((size, Identity::of(headers)))
    }

    fn fetch_once(&self, start: u64, end: u64, bytes: &mut Vec<u8>) -> Result<(), Failed> {
        let mut response = self.request(start, end)?;
        match response.status().as_u16() {
            206 => {}
            412 | 416 => return Err(changed()),
            200 if !self.identity.is_that_of(response.headers()) => return Err(changed()),
            200 => {
                return Err(for_good(
                    "the server does not answer range requests any more",
                ));
            }
            _ => return Err(unexpected(&response)),
        }
        let range = content_range(response.headers());
        if range.is_none_or(|(_, size)| size != self.size)
            || !self.identity.is_that_of(response.headers())
        {
            return Err(changed());
        }
        if range.is_none_or(|(first, _)| first != start) {
            return Err(for_good(
                "the server sends another range than was asked for",
            ));
        }
        let before = bytes.len();
        let body = response.body_mut().as_reader();
        let read = body.take(end - start).read_to_end(bytes);
        let came = (bytes.len() - before) as u64;
        self.bytes.fetch_add(came, Ordering::Relaxed);
        read.map_err(Failed::Once)?;
        match came == end - start {
            true => Ok(()),
            false => Err(Failed::Once(ErrorKind::UnexpectedEof.into())),
        }
    }

    fn request(&self, start: u64, end: u64) -> Result<Response<ureq::Body>, Failed> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = self
            .agent
            .get(&self.address)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::RANGE, format!("bytes={start}-{}", end - 1));
        match &self.identity {
            Identity {
                etag: Some(etag), ..
            } if !etag.starts_with("W/") => request = request.header(header::IF_MATCH, etag),
            Identity {
                modified: Some(modified),
                ..
            } => request = request.header(header::IF_UNMODIFIED_SINCE, modified),
            Identity { .. } => {}
        }
        request.call().map_err(failed)
    }
}

impl Fetch for Client {
    fn size(&self) -> u64 {
        self.size
    }

    /// Where a connection drops, what has come need not come again.
    fn fetch(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            self.patiently(|| {
                let before = bytes.len();
                match self.fetch_once(start + before as u64, end, &mut bytes) {
                    // A server that sends a little at a time is tried as long as anything comes.
                    Err(Failed::Once(_)) if bytes.len() > before => Ok(()),
                    done => done,
                }
            })?;
        }
        Ok(bytes)
    }
}

impl Identity {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name| {
            let value = headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        Self {
            etag: text(header::ETAG),
            modified: text(header::LAST_MODIFIED),
        }
    }

    /// Whether an answer says nothing else.
    fn is_that_of(&self, headers: &HeaderMap) -> bool {
        let now = Self::of(headers);
        let agree = |before: &Option<String>, now: &Option<String>| match (before, now) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        };
        agree(&self.etag, &now.etag) && agree(&self.modified, &now.modified)
    }
}

/// The first byte of the range in an answer, and the size of the whole.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, size.trim().parse().ok()?))
}

/// The size of the whole, of an answer without a range.
fn total(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes */")?.trim().parse().ok()
}

/// Whether a request that came to nothing may be tried again.
fn failed(error: ureq::Error) -> Failed {
    match error {
        // A certificate that is not believed; it will be no other.
        ureq::Error::Io(ref refused) if refused.kind() == ErrorKind::InvalidData => {
            Failed::ForGood(error.into_io())
        }
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Failed::Once(error.into_io()),
        error => Failed::ForGood(error.into_io()),
    }
}

fn unexpected(response: &Response<ureq::Body>) -> Failed {
    let status = response.status();
    let error = io::Error::other(format!("the server answers {status}"));
    match status.as_u16() {
        408 | 429 | 500..=599 => Failed::Once(error),
        404 | 410 => Failed::ForGood(io::Error::new(ErrorKind::NotFound, error)),
        _ => Failed::ForGood(error),
    }
}

fn changed() -> Failed {
    for_good("the file on the server is not the one that it was at the beginning")
}

fn for_good(why: &'static str) -> Failed {
    Failed::ForGood(io::Error::other(why))
}

/// An address as messages show it: without what may be a secret.
pub(crate) fn shown(address: &str) -> String {
    let plain = address.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else {
        return plain.to_owned();
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_secrets() {
        assert_eq!(
            shown("https://user:word@host:1/a/b.qcow2?signature=x#y"),
            "https://host:1/a/b.qcow2"
        );
        assert_eq!(shown("http://host"), "http://host/");
    }
}
