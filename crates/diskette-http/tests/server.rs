//! A small HTTP server that keeps to the rules, or breaks one of them, and what we make of it.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use diskette_core::Storage;
use diskette_http::HttpStorage;

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// All as it should be.
    Right,
    /// The connection drops amid each second answer.
    Drops,
    /// Another file is there after the first few answers: by its ETag, which it sends and does not check.
    Changes,
    /// The same, and it checks what the client asks for.
    ChangesAndChecks,
    /// Ranges are not understood.
    NoRanges,
    /// Each second answer is 503.
    Busy,
    /// There is nothing.
    Nothing,
}

struct Server {
    address: String,
    requests: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start(content: Vec<u8>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (content, counted, stopped) =
            (Arc::new(content), Arc::clone(&requests), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (content, counted) = (Arc::clone(&content), Arc::clone(&counted));
                thread::spawn(move || serve(stream.unwrap(), &content, manner, &counted));
            }
        });
        Self {
            address: format!("http://127.0.0.1:{port}/images/disk.raw"),
            requests,
            stop,
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let host = self.address.trim_start_matches("http://");
        let _ = TcpStream::connect(host.split('/').next().unwrap());
    }
}

/// Answers one connection's requests. A client that goes away is no fault.
fn serve(stream: TcpStream, content: &[u8], manner: Manner, counted: &AtomicU64) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(wanted) = request(&mut reader) {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        if answer(&stream, content, manner, number, &wanted).is_none() {
            return;
        }
    }
}

/// What the client asks for.
struct Wanted {
    range: Option<(usize, usize)>,
    if_match: Option<String>,
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Wanted> {
    let mut wanted = Wanted {
        range: None,
        if_match: None,
    };
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if first {
            assert!(line.starts_with("get /images/disk.raw "), "{line}");
            first = false;
        }
        if line.is_empty() {
            return Some(wanted);
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            let (start, end) = range.split_once('-').unwrap();
            wanted.range = Some((start.parse().unwrap(), end.parse().unwrap()));
        }
        if let Some(etag) = line.strip_prefix("if-match: ") {
            wanted.if_match = Some(etag.to_owned());
        }
    }
}

/// `None` where the connection ends with this answer.
fn answer(
    mut stream: &TcpStream,
    content: &[u8],
    manner: Manner,
    number: u64,
    wanted: &Wanted,
) -> Option<()> {
    let is_odd = number % 2 == 1;
    let changes = matches!(manner, Manner::Changes | Manner::ChangesAndChecks);
    let etag = match changes && number >= 3 {
        true => "\"second\"",
        false => "\"first\"",
    };
    let mut tell = |status: &str, more: &str, body: &[u8], len: usize| {
        let head =
            format!("HTTP/1.1 {status}\r\nETag: {etag}\r\nContent-Length: {len}\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()
    };
    if manner == Manner::Nothing {
        return tell("404 Not Found", "", b"", 0);
    }
    if manner == Manner::Busy && is_odd {
        return tell("503 Service Unavailable", "", b"", 0);
    }
    if manner == Manner::ChangesAndChecks && wanted.if_match.as_ref().is_some_and(|e| e != etag) {
        return tell("412 Precondition Failed", "", b"", 0);
    }
    let Some((start, end)) = wanted.range.filter(|_| manner != Manner::NoRanges) else {
        return tell("200 OK", "", content, content.len());
    };
    let size = content.len();
    if start >= size {
        let more = format!("Content-Range: bytes */{size}\r\n");
        return tell("416 Range Not Satisfiable", &more, b"", 0);
    }
    let end = (end + 1).min(size);
    let more = format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1);
    let body = &content[start..end];
    if manner == Manner::Drops && is_odd {
        tell(
            "206 Partial Content",
            &more,
            &body[..body.len() / 2],
            body.len(),
        )?;
        return None;
    }
    tell("206 Partial Content", &more, body, body.len())
}

/// Bytes that tell where they are.
fn content(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at / 4099 + at) % 251).unwrap())
        .collect()
}

const MIB: usize = 1 << 20;

fn read(storage: &HttpStorage, offset: usize, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    storage.read_at(&mut bytes, offset as u64)?;
    Ok(bytes)
}

#[test]
fn what_is_read_is_what_lies_there() {
    let content = content(5 * MIB + 12_345);
    let server = Server::start(content.clone(), Manner::Right);
    let storage = HttpStorage::open(&server.address).unwrap();
    assert_eq!(storage.size().unwrap(), content.len() as u64);
    assert_eq!(storage.name(), server.address);
    for (offset, len) in [
        (0, 1),
        (MIB - 3, 7),
        (5 * MIB, 12_345),
        (17, 3 * MIB),
        (0, content.len()),
    ] {
        let same = read(&storage, offset, len).unwrap() == content[offset..offset + len];
        assert!(same, "{offset} {len}");
    }
    assert!(read(&storage, content.len(), 1).is_err());
    assert!(read(&storage, content.len() - 1, 2).is_err());
}

#[test]
fn many_threads_read_the_same() {
    let content = content(12 * MIB);
    let server = Server::start(content.clone(), Manner::Right);
    let storage = HttpStorage::open(&server.address).unwrap();
    thread::scope(|scope| {
        for first in 0..8 {
            let (storage, content) = (&storage, &content);
            scope.spawn(move || {
                for at in 0..24 {
                    let offset = (first * 3 + at * 7) % 24 * MIB / 2;
                    let len = MIB / 2;
                    assert!(read(storage, offset, len).unwrap() == content[offset..offset + len]);
                }
            });
        }
    });
    // Nothing came twice.
    assert!(storage.traffic().1 <= content.len() as u64);
}

#[test]
fn a_part_of_a_large_file_costs_what_it_touches() {
    let server = Server::start(content(64 * MIB), Manner::Right);
    let storage = HttpStorage::open(&server.address).unwrap();
    for offset in [40 * MIB, 40 * MIB + 5000, 63 * MIB, 8 * MIB] {
        read(&storage, offset, 4096).unwrap();
    }
    let (requests, bytes) = storage.traffic();
    // One to see what there is, one for the first block, and one for each place.
    assert_eq!((requests, bytes), (5, 4 * MIB as u64));
    assert_eq!(server.requests(), 5);
}

#[test]
fn who_reads_on_asks_for_several_blocks_at_once() {
    let content = content(32 * MIB);
    let server = Server::start(content.clone(), Manner::Right);
    let storage = HttpStorage::open(&server.address).unwrap();
    for at in 0..content.len() / 65536 {
        read(&storage, at * 65536, 65536).unwrap();
    }
    let (requests, bytes) = storage.traffic();
    assert_eq!(bytes, content.len() as u64);
    assert!(requests <= 12, "{requests}");
}

#[test]
fn what_is_dropped_or_put_off_is_asked_for_again() {
    for manner in [Manner::Drops, Manner::Busy] {
        let content = content(3 * MIB + 1);
        let server = Server::start(content.clone(), manner);
        let storage = HttpStorage::open(&server.address).unwrap();
        let same = read(&storage, 0, content.len()).unwrap() == content;
        assert!(same, "{manner:?}");
    }
}

#[test]
fn a_file_that_changes_midway_is_refused() {
    for manner in [Manner::Changes, Manner::ChangesAndChecks] {
        let server = Server::start(content(8 * MIB), manner);
        let storage = HttpStorage::open(&server.address).unwrap();
        read(&storage, 3 * MIB, 1).unwrap();
        let error = read(&storage, 6 * MIB, 1).unwrap_err().to_string();
        assert!(error.contains("not the one"), "{manner:?}: {error}");
        // What has come already is still that of the first file.
        read(&storage, 3 * MIB, 1).unwrap();
    }
}

#[test]
fn a_server_without_ranges_is_refused() {
    let server = Server::start(content(2 * MIB), Manner::NoRanges);
    let error = HttpStorage::open(&server.address).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("does not answer range requests"), "{why}");
}

#[test]
fn what_is_not_there_is_told_at_once() {
    let server = Server::start(Vec::new(), Manner::Nothing);
    let error = HttpStorage::open(&server.address).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("404"), "{why}");
    assert_eq!(server.requests(), 1);
}

#[test]
fn an_empty_file_is_empty() {
    let server = Server::start(Vec::new(), Manner::Right);
    let storage = HttpStorage::open(&server.address).unwrap();
    assert_eq!(storage.size().unwrap(), 0);
    storage.read_at(&mut [], 0).unwrap();
}

#[test]
fn addresses_are_told_from_paths() {
    for address in ["http://a/b", "HTTPS://a/b"] {
        assert!(HttpStorage::is_address(address));
    }
    for path in ["http", "http:/a", "ftp://a/b", "/http://", "a"] {
        assert!(!HttpStorage::is_address(path), "{path}");
    }
}
