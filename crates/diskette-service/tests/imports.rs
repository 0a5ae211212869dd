//! Images are fetched from other servers: from those that may be asked, and when the bytes are the right ones.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::Server;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A server of one file that closes the first connections in the middle.
struct Other {
    address: String,
    requests: Arc<AtomicUsize>,
}

fn other(file: Vec<u8>, cuts: usize) -> Other {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let (count, own) = (Arc::clone(&requests), address.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let _ = answer(stream.unwrap(), &file, number < cuts, &own);
        }
    });
    Other { address, requests }
}

fn answer(mut stream: TcpStream, file: &[u8], cut: bool, own: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    let mut from = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if let Some(range) = header.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().unwrap();
        }
        if header.trim().is_empty() {
            break;
        }
    }
    if path == "/away" {
        return stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n");
    }
    if path == "/sums" {
        let text = format!("{}  disk.vmdk\n", sha256(file));
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
    }
    if path == "/round" {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {own}/round\r\nContent-Length: 0\r\n\r\n"
        );
    }
    if path != "/disk.vmdk" {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    let rest = &file[from..];
    match from {
        0 => write!(
            stream,
            "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n",
            rest.len()
        )?,
        _ => write!(
            stream,
            "HTTP/1.1 206 Partial\r\nETag: \"1\"\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
            file.len() - 1,
            file.len(),
            rest.len()
        )?,
    }
    let len = if cut { rest.len() / 2 } else { rest.len() };
    stream.write_all(&rest[..len])
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn router() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2");
    std::fs::read(path).unwrap()
}

fn fetched(server: &Server, import: &Value) -> Value {
    let image = server.json("POST", "/api/v1/imports", import).expect(202);
    server.settled(image["id"].as_str().unwrap())
}

#[test]
fn an_import_goes_on_where_the_connection_broke() {
    let server = Server::with(&["--allow-private-urls", "true"]);
    let other = other(router(), 2);
    let url = format!("{}/disk.vmdk", other.address);
    let image = fetched(&server, &json!({"url": url, "sha256": sha256(&router())}));
    assert_eq!(image["state"], "ready", "{image:#}");
    assert_eq!(
        (&image["name"], &image["source"]["format"]),
        (&json!("disk"), &json!("vmdk"))
    );
    assert_eq!(image["source"]["url"], url);
    assert_eq!(other.requests.load(Ordering::Relaxed), 3);
}

#[test]
fn a_checksum_file_and_mirrors_are_used() {
    let server = Server::with(&["--allow-private-urls", "true"]);
    let other = other(router(), 0);
    let url = |path: &str| format!("{}{path}", other.address);
    let import = json!({"url": url("/gone/disk.vmdk"), "mirrors": [url("/disk.vmdk")], "checksum_url": url("/sums"), "name": "a"});
    assert_eq!(fetched(&server, &import)["state"], "ready");
    let wrong = json!({"url": url("/disk.vmdk"), "sha256": "0".repeat(64), "name": "b"});
    assert_eq!(
        fetched(&server, &wrong)["problem"]["code"],
        "CHECKSUM_MISMATCH"
    );
    let unlisted = json!({"url": url("/disk.vmdk"), "checksum_url": url("/sums"), "checksum_name": "other", "name": "c"});
    assert_eq!(
        fetched(&server, &unlisted)["problem"]["code"],
        "CHECKSUM_MISMATCH"
    );
    let large = json!({"url": url("/disk.vmdk"), "max_bytes": 100, "name": "d"});
    assert_eq!(fetched(&server, &large)["problem"]["code"], "TOO_LARGE");
    let round = json!({"url": url("/round"), "name": "e"});
    assert_eq!(
        fetched(&server, &round)["problem"]["code"],
        "DOWNLOAD_FAILED"
    );
    let gone = json!({"url": url("/gone"), "mirrors": [url("/gone-too")], "sha256": "0".repeat(64), "name": "f"});
    assert_eq!(
        fetched(&server, &gone)["problem"]["code"],
        "MIRRORS_EXHAUSTED"
    );
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
}

#[test]
fn what_is_listed_and_missing_is_fetched_at_the_start() {
    let other = other(router(), 0);
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("catalog.json");
    let entries = json!({"router.qcow2": format!("{}/disk.vmdk", other.address), "gone": format!("{}/gone", other.address)});
    std::fs::write(&list, entries.to_string()).unwrap();
    let flags = [
        "--allow-private-urls",
        "true",
        "--auto-download",
        "true",
        "--catalog",
        list.to_str().unwrap(),
    ];
    let mut server = Server::with(&flags);
    server.until("/api/v1/images/router", |image| image["state"] == "ready");
    let before = other.requests.load(Ordering::Relaxed);
    server.kill_and_restart();
    server.until("/api/v1/images?state=failed", |page| {
        page["items"][0]["name"] == "gone"
    });
    assert_eq!(
        server.get("/api/v1/images/router").expect(200)["state"],
        "ready"
    );
    // What is there is not asked for again.
    assert!(other.requests.load(Ordering::Relaxed) <= before + 1);
    server.plain("GET", "/api/v1/health", &[], &[]).expect(200);
}

#[test]
fn addresses_of_private_networks_are_not_asked() {
    let server = Server::start();
    let other = other(router(), 0);
    let digest = sha256(&router());
    let port = other.address.rsplit(':').next().unwrap().to_owned();
    for (number, host) in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "017700000001",
        "[::127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "localhost.",
    ]
    .into_iter()
    .enumerate()
    {
        let url = format!("http://{host}:{port}/disk.vmdk");
        let import = json!({"url": url, "sha256": digest, "name": format!("image-{number}")});
        let image = fetched(&server, &import);
        let code = image["problem"]["code"].as_str().unwrap();
        // A name that this system does not take for an address is not found.
        assert!(
            ["URL_REFUSED", "DOWNLOAD_FAILED"].contains(&code),
            "{host}: {image:#}"
        );
    }
    assert_eq!(other.requests.load(Ordering::Relaxed), 0);
    for url in [
        "http://a.example/x",
        "ftp://a.example/x",
        "file:///etc/passwd",
        "https://user:pass@a.example/x",
        "nonsense",
    ] {
        server
            .json("POST", "/api/v1/imports", &json!({"url": url}))
            .refused(403, "URL_REFUSED");
    }
}

#[test]
fn a_redirection_to_a_private_address_is_not_followed() {
    // What leads there is allowed itself; the step is judged anew.
    let server = Server::with(&["--allow-addresses", "127.0.0.1"]);
    let other = other(router(), 0);
    let import = json!({"url": format!("{}/away", other.address), "sha256": sha256(&router()), "name": "away"});
    let image = fetched(&server, &import);
    assert_eq!(image["problem"]["code"], "URL_REFUSED", "{image:#}");
    assert_eq!(other.requests.load(Ordering::Relaxed), 1);
}
