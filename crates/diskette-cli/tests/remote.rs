//! Images on a server, by the command.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::{command, ours};
use diskette_testkit::{Tool, qemu_img};
use tempfile::TempDir;

/// A server of the files in a folder, that answers range requests.
struct Server {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(AtomicU64::new(0));
        let (folder, counted) = (folder.to_owned(), Arc::clone(&sent));
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, counted) = (folder.clone(), Arc::clone(&counted));
                thread::spawn(move || serve(&stream, &folder, &counted));
            }
        });
        Self { port, sent }
    }

    fn address(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }
}

/// Answers until the client goes away.
fn serve(mut stream: &TcpStream, folder: &Path, sent: &AtomicU64) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let first = lines.next()?.ok()?;
        let path: PathBuf = folder.join(first.split(' ').nth(1)?.trim_start_matches('/'));
        let mut range = None;
        for line in lines.by_ref() {
            let line = line.ok()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(told) = line.strip_prefix("range: bytes=") {
                let (start, end) = told.split_once('-')?;
                range = Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?));
            }
        }
        let file = File::open(path).ok()?;
        let size = file.metadata().ok()?.len();
        let (start, last) = range?;
        let last = last.min(size - 1);
        let mut body = vec![0; usize::try_from(last + 1 - start).ok()?];
        file.read_exact_at(&mut body, start).ok()?;
        let len = body.len();
        sent.fetch_add(len as u64, Ordering::Relaxed);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\nETag: \"{size}\"\r\n\
             Content-Range: bytes {start}-{last}/{size}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&body).ok()?;
    }
}

/// A folder with a disk of 40 MiB, the half of it data.
fn folder(qemu_img: &Tool) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes: Vec<u8> = (0..20 << 20)
        .map(|at: u32| u8::try_from((at / 4096 + at) % 251).unwrap())
        .collect();
    bytes.resize(40 << 20, 0);
    fs::write(folder.path().join("disk.raw"), bytes).unwrap();
    for (name, format) in [("disk.qcow2", "qcow2"), ("disk.vmdk", "vmdk")] {
        qemu_img.run_in(folder.path(), ["convert", "-O", format, "disk.raw", name]);
    }
    let overlay = ["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F"];
    let overlay = overlay.into_iter().chain(["qcow2", "top.qcow2"]);
    qemu_img.run_in(folder.path(), overlay);
    folder
}

#[test]
fn an_image_on_a_server_reads_as_the_file_does() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = folder(&qemu_img);
    let server = Server::start(folder.path());
    for name in ["disk.raw", "disk.qcow2", "disk.vmdk"] {
        let address = server.address(name);
        for args in [
            vec!["map", "--output=json"],
            vec!["digest"],
            vec!["compare", "disk.raw"],
        ] {
            let at = |image: &str| ours(folder.path(), args.iter().copied().chain([image]));
            let (remote, local) = (at(&address), at(name));
            assert_eq!(
                (remote.code, remote.err.as_str()),
                (Some(0), ""),
                "{args:?}"
            );
            // The host's holes are not seen from afar.
            if name != "disk.raw" {
                assert_eq!(remote.out.replace(&address, name), local.out, "{args:?}");
            }
        }
        let info = ours(folder.path(), ["info", "--output=json", &address]);
        let info = info.json().unwrap();
        assert_eq!(info["virtual-size"], 40 << 20);
        let args = ["convert", "-O", "qcow2", &address, "copy.qcow2"];
        let copied = ours(folder.path(), args);
        assert_eq!((copied.code, copied.err.as_str()), (Some(0), ""));
        let args = ["compare", "-f", "raw", "disk.raw", "copy.qcow2"];
        assert!(qemu_img.run_in(folder.path(), args).contains("identical"));
    }
}

#[test]
fn a_look_at_an_image_on_a_server_costs_little() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = folder(&qemu_img);
    let server = Server::start(folder.path());
    let info = ours(folder.path(), ["info", &server.address("disk.qcow2")]);
    assert_eq!((info.code, info.err.as_str()), (Some(0), ""));
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent <= 4 << 20, "{sent}");
}

#[test]
fn an_image_on_a_server_leads_to_no_other_file() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = folder(&qemu_img);
    let server = Server::start(folder.path());
    let address = server.address("top.qcow2");
    for more in [vec![], vec!["--trust"], vec!["--allow-reference", "."]] {
        let mut ours = command(folder.path());
        let output = ours.args(["digest"]).args(&more).arg(&address).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("refused"), "{told}");
    }
}
