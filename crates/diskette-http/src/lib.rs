//! Host bytes behind `http://` and `https://`, by range requests: whoever reads a part of a large image pays for that part.
//!
//! ```text
//!  read_at ─► blocks of 1 MiB, some kept ─► range requests, tried again where a connection drops
//! ```
//!
//! What lies behind the address must not change meanwhile: its `ETag`, its `Last-Modified` and its size are noted down at
//! the beginning, asked for with every request, and looked at in every answer.
//!
//! A server's certificate must lead to one of the authorities that come with the program, or, where the environment's
//! `SSL_CERT_FILE` names a file, to one of those in it.
//!
//! What else is far away, and is read over HTTP, shares the [`Blocks`] and the [`agent_config`].

#![forbid(unsafe_code)]

mod agent;
mod blocks;
mod client;

use std::fmt;
use std::io;

use diskette_core::{Error, Result, Run, RunKind, Storage};

pub use agent::agent_config;
pub use blocks::{BLOCK, Blocks, Fetch};
use client::Client;

/// A file behind an address, that can be read anywhere.
pub struct HttpStorage {
    client: Client,
    blocks: Blocks,
}

impl HttpStorage {
    /// Whether this is an address that [`open`](Self::open) takes.
    #[must_use]
    pub fn is_address(text: &str) -> bool {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
        })
    }

    /// What lies behind `address`. The server must answer range requests.
    pub fn open(address: &str) -> Result<Self> {
        let (client, first) = Client::open(address).map_err(|source| Error::File {
            op: "open",
            path: client::shown(address),
            source,
        })?;
        Ok(Self {
            client,
            blocks: Blocks::new(first),
        })
    }

    /// How many requests were made, and how many bytes came.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        self.client.traffic()
    }
}

impl Storage for HttpStorage {
    fn name(&self) -> &str {
        self.client.name()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.client.size())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.blocks.read(&self.client, buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        Ok(Run {
            len: self.client.size().saturating_sub(offset).max(1),
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl fmt::Debug for HttpStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStorage")
            .field("name", &self.client.name())
            .field("size", &self.client.size())
            .finish_non_exhaustive()
    }
}
