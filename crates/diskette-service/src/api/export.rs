//! An image in another format: from its first byte to its last where the format can be written so, else by way of a file.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::Response;
use diskette::{Conversion, engine::Control};
use futures_util::{StreamExt, stream};
use tokio::fs::File;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::data::{Stored, blocking};
use crate::catalog::Row;
use crate::fault;
use crate::problem::{Problem, Result, UNSUPPORTED_FORMAT};
use crate::state::Shared;

/// The image in this format.
pub(super) async fn converted(
    app: &Shared,
    row: &Row,
    stored: Stored,
    format: &str,
    compress: bool,
) -> Result<Response> {
    let (format, in_order) = match format {
        "raw" => ("raw", true),
        "vmdk" => ("vmdk", true),
        "qcow2" => ("qcow2", true),
        "vdi" => ("vdi", false),
        "vhdx" => ("vhdx", false),
        "vpc" | "vhd" => ("vpc", false),
        other => {
            let detail = format!("\"{}\" is not written here", other.escape_debug());
            return Err(Problem::new(UNSUPPORTED_FORMAT, detail));
        }
    };
    let wanted = Wanted {
        format,
        compress,
        threads: app.settings.threads,
    };
    let mut answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_DISPOSITION, disposition(&row.name, format));
    if format == "raw"
        && let Some(size) = row.virtual_size
    {
        answer = answer.header(header::CONTENT_LENGTH, size);
    }
    let body = match in_order {
        true => in_one_pass(app, stored, wanted).await?,
        false => by_file(app, row, stored, wanted).await?,
    };
    answer.body(body).map_err(Problem::internal)
}

#[derive(Clone, Copy)]
struct Wanted {
    format: &'static str,
    compress: bool,
    threads: usize,
}

impl Wanted {
    fn conversion(self) -> Conversion<'static> {
        let mut conversion = Conversion::to(self.format);
        let mut control = Control::default();
        control.threads = Some(self.threads);
        conversion.engine.control = control;
        conversion = match (self.format, self.compress) {
            ("vmdk", _) => conversion.option("subformat", "streamOptimized"),
            ("qcow2", true) => conversion.compressed(),
            _ => conversion,
        };
        conversion
    }
}

/// The thread waits for the network, and ends when nobody reads any more. What goes wrong before the first byte is told;
/// later the body breaks off.
async fn in_one_pass(app: &Shared, stored: Stored, wanted: Wanted) -> Result<Body> {
    const WAITING: usize = 8;
    let (to_network, mut pieces) = mpsc::channel::<Result<Bytes>>(WAITING);
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe {
            to: to_network.clone(),
            app,
            buffer: Vec::with_capacity(Pipe::PIECE),
        };
        let disk = diskette::open_with(&stored.path, &stored.options());
        let written = disk.and_then(|disk| {
            let conversion = wanted.conversion();
            conversion.write_into_stream(&disk, "download", Box::new(pipe), &|| ())
        });
        if let Err(error) = written {
            tracing::warn!(%error, "a download broke off");
            // Whoever reads sees that it is not whole.
            let _ = to_network.blocking_send(Err(fault::of_image(&error)));
        }
    });
    let first = pieces.recv().await.transpose()?;
    let first = stream::iter(first.map(Ok));
    let rest = stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        let piece = piece.map_err(|problem| io::Error::other(problem.detail));
        Some((piece, pieces))
    });
    Ok(Body::from_stream(first.chain(rest)))
}

/// What is written comes out as pieces for the network.
struct Pipe {
    to: mpsc::Sender<Result<Bytes>>,
    app: Shared,
    buffer: Vec<u8>,
}

impl Pipe {
    const PIECE: usize = 256 << 10;

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(Self::PIECE));
        self.app
            .metrics
            .sent
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
        let sent = self.to.blocking_send(Ok(Bytes::from(piece)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(Self::PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..len]);
        if self.buffer.len() == Self::PIECE {
            self.send()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// The file goes when it has been sent, or nobody reads it any more.
async fn by_file(app: &Shared, row: &Row, stored: Stored, wanted: Wanted) -> Result<Body> {
    let folder = app.store.staging();
    let name = format!("{}.{}.export", row.id, uuid::Uuid::now_v7());
    let path = folder.join(name);
    let made = path.clone();
    let file = blocking(move || {
        let disk = diskette::open_with(&stored.path, &stored.options());
        let written = disk.and_then(|disk| wanted.conversion().write(&disk, &made));
        written.map_err(|error| fault::of_image(&error))?;
        let file = std::fs::File::open(&made).map_err(|error| fault::of_machine("reading", &error));
        // It lives on while it is open.
        let _ = std::fs::remove_file(&made);
        file
    });
    let file = File::from_std(file.await?);
    Ok(Body::from_stream(ReaderStream::with_capacity(
        file,
        Pipe::PIECE,
    )))
}

/// How a browser is to call the file ("Content-Disposition", RFC 6266).
pub(super) fn disposition(name: &str, format: &str) -> String {
    let suffix = match format {
        "vpc" => "vhd",
        other => other,
    };
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(plain).collect();
    format!("attachment; filename=\"{name}.{suffix}\"")
}
