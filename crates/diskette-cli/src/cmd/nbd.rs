//! `diskette nbd`: an image exported over NBD.

use std::fmt::{Display, Write as _};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use clap::Args;
use diskette::core::{BlockReader, BlockWriter};
use diskette::nbd::{Export, Server};
use nix::sys::signal::{SigSet, Signal};

use crate::args::Opening;
use crate::failure::{Failure, Outcome, tell};

/// Export an image over NBD: the disk, whatever the format, for the kernel, nbdcopy, guestfish and others
///
/// It is read-only, unless --writable says otherwise, and offered on a unix socket or on 127.0.0.1. Its URI is printed
/// when clients can come. The command ends when the last client has left, or by SIGINT or SIGTERM; what clients have
/// written is flushed then.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  diskette nbd -k disk.sock disk.vhdx
  nbdcopy 'nbd+unix:///?socket=disk.sock' disk.raw
  diskette nbd --persistent --writable -p 10809 disk.qcow2")]
pub(crate) struct Nbd {
    /// The image
    filename: PathBuf,

    /// The image's format; without it, the content tells
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,

    /// Offer it on a unix socket, which is made here
    #[arg(
        short = 'k',
        long,
        value_name = "PATH",
        required_unless_present = "port"
    )]
    socket: Option<PathBuf>,

    /// Offer it on 127.0.0.1 at this port; 0 takes a free one
    #[arg(short, long, value_name = "PORT", conflicts_with = "socket")]
    port: Option<u16>,

    /// Let clients write
    #[arg(short, long)]
    writable: bool,

    /// Let clients read alone; so it is anyway
    #[arg(short, long, conflicts_with = "writable")]
    read_only: bool,

    /// The export's name
    #[arg(short = 'x', long, value_name = "NAME", default_value = "")]
    export_name: String,

    /// What clients are told of it
    #[arg(short = 'D', long, value_name = "TEXT", default_value = "")]
    description: String,

    /// How many clients may be there at once
    #[arg(short = 'e', long, value_name = "N", default_value = "16")]
    shared: NonZeroUsize,

    /// Go on when the last client has left
    #[arg(short = 't', long)]
    persistent: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(crate) fn run(args: &Nbd) -> Outcome {
    // Blocked before there are threads, so that the one that waits for them is the only one to hear of them.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().map_err(io::Error::from)?;
    let disk = args.disk()?;
    let listener = Listener::bind(args)?;
    let (end, ended) = mpsc::channel();
    let by_signal = end.clone();
    thread::spawn(move || {
        let _ = signals.wait();
        let _ = by_signal.send(());
    });
    let clients = Arc::new(Clients {
        server: Server::new(args.export(&disk)),
        most: args.shared.get(),
        persistent: args.persistent,
        there: Mutex::new(0),
        left: Condvar::new(),
        end,
    });
    writeln!(io::stdout(), "{}", listener.uri(&args.export_name)?)?;
    thread::spawn(move || listener.accept(&clients));
    // Senders outlive this: it ends by a word of one of them.
    let _ = ended.recv();
    if let Some(path) = &args.socket {
        // A socket that is gone already is as good.
        let _ = fs::remove_file(path);
    }
    if let Disk::Writable(disk) = disk {
        disk.close()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is exported.
enum Disk {
    ReadOnly(Arc<dyn BlockReader>),
    Writable(Arc<dyn BlockWriter>),
}

impl Nbd {
    fn disk(&self) -> Result<Disk, Failure> {
        let (path, options) = self.opening.image(&self.filename, self.format.as_deref())?;
        if !self.writable {
            let disk = diskette::open_with(&path, &options)?;
            return Ok(Disk::ReadOnly(Arc::new(disk)));
        }
        let format = diskette::inspect(&path, options.clone())?.info.format;
        if format == "raw" && self.format.is_none() {
            return Err(Failure::new(
                "a raw image that clients write must be named as one, with -f raw: they could make it look like \
                 another format",
            ));
        }
        let disk = diskette::edit(&path, &options)?;
        Ok(Disk::Writable(disk.into()))
    }

    fn export(&self, disk: &Disk) -> Export {
        let export = match disk {
            Disk::ReadOnly(disk) => Export::read_only(&self.export_name, Arc::clone(disk)),
            Disk::Writable(disk) => Export::writable(&self.export_name, Arc::clone(disk)),
        };
        export.described(&self.description)
    }
}

/// Where clients come from.
enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    fn bind(args: &Nbd) -> Result<Self, Failure> {
        let bound = match (&args.socket, args.port) {
            (Some(path), _) => {
                UnixListener::bind(path).map(|bound| Self::Unix(bound, path.clone()))
            }
            (None, port) => {
                TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).map(Self::Tcp)
            }
        };
        bound.map_err(|error| {
            let place = match &args.socket {
                Some(path) => path.display().to_string(),
                None => format!("port {}", args.port.unwrap_or(0)),
            };
            Failure::new(format!("cannot offer the image on {place}: {error}"))
        })
    }

    fn uri(&self, name: &str) -> io::Result<String> {
        let name = Escaped(name.as_bytes());
        Ok(match self {
            Self::Unix(_, path) => {
                let path = std::path::absolute(path)?;
                let path = Escaped(path.as_os_str().as_bytes());
                format!("nbd+unix:///{name}?socket={path}")
            }
            Self::Tcp(listener) => format!("nbd://{}/{name}", listener.local_addr()?),
        })
    }

    /// Lets clients in, as long as some can come.
    fn accept(&self, clients: &Arc<Clients>) {
        loop {
            clients.wait_for_place();
            let served = match self {
                Self::Unix(listener, _) => {
                    listener.accept().map(|(client, _)| clients.serve(client))
                }
                Self::Tcp(listener) => listener.accept().map(|(client, _)| clients.serve(client)),
            };
            if let Err(error) = served {
                tell(format_args!(
                    "diskette: no client can come any more: {error}\n"
                ));
                let _ = clients.end.send(());
                return;
            }
        }
    }
}

/// The clients that are there.
struct Clients {
    server: Server,
    most: usize,
    persistent: bool,
    there: Mutex<usize>,
    /// One of them has left.
    left: Condvar,
    end: Sender<()>,
}

impl Clients {
    fn wait_for_place(&self) {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let _there = self.left.wait_while(there, |there| *there >= self.most);
    }

    /// Serves one more, by a thread of its own.
    fn serve<C: Read + Write + Send + 'static>(self: &Arc<Self>, client: C) {
        *self.there.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let clients = Arc::clone(self);
        thread::spawn(move || {
            if let Err(error) = clients.server.serve(client) {
                let _ = Failure::of(&error).tell();
            }
            clients.leave();
        });
    }

    fn leave(&self) {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        *there -= 1;
        self.left.notify_all();
        if *there == 0 && !self.persistent {
            let _ = self.end.send(());
        }
    }
}

/// Bytes as they stand in a URI ("RFC 3986", 2.1).
struct Escaped<'a>(&'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                f.write_char(char::from(*byte))
            }
            other => write!(f, "%{other:02X}"),
        })
    }
}
