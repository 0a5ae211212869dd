//! Images on a server, by the command.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::{Answer, command, ours};
use diskette_testkit::{Tool, qemu_img};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// A server of the files in a folder, that answers range requests.
struct Server {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Server {
    fn start(folder: &Path) -> Self {
        Self::serving(folder, serve)
    }

    fn serving(
        folder: &Path,
        serve: impl Fn(TcpStream, &Path, &AtomicU64) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let serve = Arc::new(serve);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(AtomicU64::new(0));
        let (folder, counted) = (folder.to_owned(), Arc::clone(&sent));
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, counted) = (folder.clone(), Arc::clone(&counted));
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream, &folder, &counted));
            }
        });
        Self { port, sent }
    }

    /// The same by TLS, with a certificate that nobody has signed: the file `ca.pem` in the folder.
    fn start_with_tls(folder: &Path) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.join("ca.pem"), own.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        Self::serving(folder, move |stream, folder, sent| {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            serve(StreamOwned::new(session, stream), folder, sent)
        })
    }

    fn address(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    fn tls_address(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.port)
    }
}

/// Answers until the client goes away.
fn serve(stream: impl Read + Write, folder: &Path, sent: &AtomicU64) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = stream.by_ref().lines();
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
        stream.get_mut().write_all(head.as_bytes()).ok()?;
        stream.get_mut().write_all(&body).ok()?;
        stream.get_mut().flush().ok()?;
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

#[test]
fn a_server_with_tls_is_believed_by_the_authority_that_is_named() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = folder(&qemu_img);
    let server = Server::start_with_tls(folder.path());
    let address = server.tls_address("disk.qcow2");
    let digest = |authorities: Option<&str>| {
        let mut ours = command(folder.path());
        match authorities {
            Some(file) => ours.env("SSL_CERT_FILE", file),
            None => ours.env_remove("SSL_CERT_FILE"),
        };
        let answer: Answer = ours.args(["digest", &address]).output().unwrap().into();
        answer
    };
    let local = ours(folder.path(), ["digest", "disk.qcow2"]).out;
    let believed = digest(Some("ca.pem"));
    assert_eq!((believed.code, believed.err.as_str()), (Some(0), ""));
    assert_eq!(believed.out.replace(&address, "disk.qcow2"), local);
    for (authorities, why) in [
        (None, "certificate"),
        (Some("disk.raw"), "there is no certificate in it"),
        (Some("none.pem"), "none.pem: No such file"),
    ] {
        let refused = digest(authorities);
        assert_eq!(refused.code, Some(1), "{authorities:?}");
        assert!(refused.err.contains(why), "{}", refused.err);
        assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
    }
}
