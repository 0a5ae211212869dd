//! A disk exported over NBD: the server's side of the protocol ("The NBD protocol", doc/proto.md of the
//! NetworkBlockDevice project).
//!
//! Fixed newstyle negotiation, structured replies, and the context `base:allocation`, so that a client that copies
//! leaves out holes. There is no TLS: a [`Server`] belongs on a unix socket, or on the machine's own address.
//!
//! ```no_run
//! use std::os::unix::net::UnixListener;
//! use std::sync::Arc;
//!
//! # fn serve(disk: Arc<dyn diskette_core::BlockReader>) -> Result<(), Box<dyn std::error::Error>> {
//! let export = diskette_nbd::Export::read_only("", disk);
//! let server = diskette_nbd::Server::new(export);
//! let listener = UnixListener::bind("disk.sock")?;
//! for client in listener.incoming() {
//!     server.serve(client?)?;
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod handshake;
mod message;
mod transmission;
mod wire;

use std::fmt::{self, Debug};
use std::io::{self, Read, Write};
use std::sync::Arc;

use diskette_core::{BlockReader, BlockWriter, Error, Result};

use crate::handshake::Agreed;

/// A disk, and what clients are told of it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Export {
    /// The name by which clients ask for it. One who asks for none gets it all the same.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    disk: Disk,
}

/// What is exported.
#[derive(Clone)]
enum Disk {
    ReadOnly(Arc<dyn BlockReader>),
    Writable(Arc<dyn BlockWriter>),
}

impl Export {
    /// A disk that clients can read.
    pub fn read_only(name: impl Into<String>, disk: Arc<dyn BlockReader>) -> Self {
        Self::new(name.into(), Disk::ReadOnly(disk))
    }

    /// A disk that clients can write, too.
    pub fn writable(name: impl Into<String>, disk: Arc<dyn BlockWriter>) -> Self {
        Self::new(name.into(), Disk::Writable(disk))
    }

    /// The same, with a description.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    const fn new(name: String, disk: Disk) -> Self {
        Self {
            name,
            description: String::new(),
            disk,
        }
    }

    fn reader(&self) -> &dyn BlockReader {
        match &self.disk {
            Disk::ReadOnly(disk) => &**disk,
            Disk::Writable(disk) => &**disk,
        }
    }

    fn writer(&self) -> Option<&dyn BlockWriter> {
        match &self.disk {
            Disk::ReadOnly(_) => None,
            Disk::Writable(disk) => Some(&**disk),
        }
    }

    fn flush(&self) -> Result<()> {
        self.writer().map_or(Ok(()), BlockWriter::flush)
    }
}

impl Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("description", &self.description)
            .field("disk", &self.reader())
            .field("writable", &self.writer().is_some())
            .finish()
    }
}

/// Serves one export to any number of clients, a thread each.
#[derive(Debug)]
pub struct Server {
    export: Export,
}

/// Why the service of a client ended before the client was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The connection broke.
    #[error("the connection broke")]
    Connection(#[from] io::Error),
    /// The client does not keep to the protocol.
    #[error("the client does not keep to the protocol: {0}")]
    Protocol(String),
    /// What the client wrote could not be brought to stable storage when it left.
    #[error("cannot flush the disk")]
    Flush(#[source] Error),
}

impl Server {
    /// A server of one export.
    #[must_use]
    pub const fn new(export: Export) -> Self {
        Self { export }
    }

    /// Serves one client until it leaves; then all that it wrote is on stable storage.
    ///
    /// Any number of threads may call this at once.
    pub fn serve<C>(&self, client: C) -> std::result::Result<(), ServeError>
    where
        C: Read + Write,
    {
        let mut client = client;
        let served = match handshake::negotiate(&mut client, &self.export)? {
            Agreed::Left => Ok(()),
            Agreed::Transmit(terms) => transmission::run(&mut client, &self.export, terms),
        };
        let flushed = self.export.flush().map_err(ServeError::Flush);
        served.and(flushed)
    }
}
