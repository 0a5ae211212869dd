//! Uploads that are cut, services that are killed: what has come counts, and nothing is lost or left.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Answer, Server};
use serde_json::json;
use sha2::{Digest, Sha256};

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const KIND: (&str, &str) = ("content-type", "application/offset+octet-stream");

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A VMDK.
fn router() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2");
    std::fs::read(path).unwrap()
}

/// A raw disk that takes a while.
fn disk(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from((at * 31 + at / 4096) % 253).unwrap();
    }
    bytes
}

fn begin(server: &Server, length: Option<usize>, metadata: &str) -> String {
    let length = match length {
        Some(length) => ("upload-length", length.to_string()),
        None => ("upload-defer-length", "1".to_owned()),
    };
    let headers = [TUS, (length.0, &length.1), ("upload-metadata", metadata)];
    let made = server.call("POST", "/api/v1/uploads", &headers, &[]);
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(made.header("upload-expires").ends_with("GMT"));
    made.header("location").to_owned()
}

fn send(server: &Server, upload: &str, offset: usize, bytes: &[u8]) -> Answer {
    let offset = offset.to_string();
    server.call(
        "PATCH",
        upload,
        &[TUS, KIND, ("upload-offset", &offset)],
        bytes,
    )
}

fn offset(server: &Server, upload: &str) -> usize {
    let answer = server.call("HEAD", upload, &[TUS], &[]);
    assert_eq!(answer.status, 200);
    answer.header("upload-offset").parse().unwrap()
}

fn image_of(upload: &str) -> String {
    upload.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn an_upload_in_pieces_becomes_an_image() {
    let server = Server::start();
    let options = server.plain("OPTIONS", "/api/v1/uploads", &[], &[]);
    assert_eq!(
        (options.status, options.header("tus-version")),
        (204, "1.0.0")
    );
    let bytes = router();
    // "test.vmdk" and "cisco".
    let upload = begin(
        &server,
        Some(bytes.len()),
        "filename dGVzdC52bWRr,name Y2lzY28=",
    );
    let mut at = 0;
    for piece in bytes.chunks(bytes.len() / 7 + 1) {
        let answer = send(&server, &upload, at, piece);
        assert_eq!(answer.status, 204, "{}", answer.text());
        at += piece.len();
        assert_eq!(answer.header("upload-offset"), at.to_string());
    }
    let image = server.settled(&image_of(&upload));
    assert_eq!(
        (&image["state"], &image["name"]),
        (&json!("ready"), &json!("cisco")),
        "{image:#}"
    );
    assert_eq!(image["source"]["format"], "vmdk");
    assert_eq!(image["source"]["sha256"], sha256(&bytes));
    assert_eq!(offset(&server, &upload), bytes.len());
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
}

#[test]
fn the_protocol_is_kept_to() {
    let server = Server::start();
    let bytes = disk(300_000);
    let upload = begin(&server, None, "");
    server
        .call("PATCH", &upload, &[KIND, ("upload-offset", "0")], b"x")
        .refused(412, "PRECONDITION_FAILED");
    server
        .call("PATCH", &upload, &[TUS, ("upload-offset", "0")], b"x")
        .refused(415, "UNSUPPORTED_MEDIA");
    send(&server, &upload, 5, b"x").refused(409, "OFFSET_CONFLICT");
    let wrong = [
        TUS,
        KIND,
        ("upload-offset", "0"),
        ("upload-checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ];
    server
        .call("PATCH", &upload, &wrong, &bytes)
        .refused(460, "CHUNK_MISMATCH");
    assert_eq!(offset(&server, &upload), 0);
    // Of "abc".
    let right = [
        TUS,
        KIND,
        ("upload-offset", "0"),
        ("upload-checksum", "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
    ];
    assert_eq!(server.call("PATCH", &upload, &right, b"abc").status, 204);
    let length = [TUS, KIND, ("upload-offset", "3"), ("upload-length", "6")];
    let sent = server.call("PATCH", &upload, &length, b"d");
    assert_eq!(sent.status, 204, "{}", sent.text());
    send(&server, &upload, 4, b"efgh").refused(400, "BAD_REQUEST");
    let gone = server.call("DELETE", &upload, &[TUS], &[]);
    assert_eq!(gone.status, 204, "{}", gone.text());
    assert_eq!(server.call("HEAD", &upload, &[TUS], &[]).status, 404);
    server
        .get(&format!("/api/v1/images/{}", image_of(&upload)))
        .refused(404, "NOT_FOUND");
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
}

#[test]
fn an_upload_goes_on_after_the_service_was_killed() {
    let mut server = Server::start();
    let bytes = disk(60 << 20);
    let upload = begin(&server, Some(bytes.len()), "");
    assert_eq!(send(&server, &upload, 0, &bytes[..30 << 20]).status, 204);
    server.kill_and_restart();
    let at = offset(&server, &upload);
    assert_eq!(at, 30 << 20);
    assert_eq!(send(&server, &upload, at, &bytes[at..]).status, 204);
    let image = server.settled(&image_of(&upload));
    assert_eq!(image["state"], "ready", "{image:#}");
    assert_eq!(image["guest_sha256"], sha256(&bytes));
    assert_eq!(image["source"]["sha256"], sha256(&bytes));
}

#[test]
fn an_upload_that_is_cut_in_the_middle_of_a_request_goes_on_where_it_was() {
    let server = Server::start();
    let bytes = disk(8 << 20);
    let upload = begin(&server, Some(bytes.len()), "");
    let host = server.address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: {}\r\n\r\n",
        server.token,
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[..3 << 20]).unwrap();
    drop(stream);
    std::thread::sleep(Duration::from_millis(500));
    let at = offset(&server, &upload);
    assert!(at > 0 && at <= 3 << 20, "{at}");
    assert_eq!(send(&server, &upload, at, &bytes[at..]).status, 204);
    let image = server.settled(&image_of(&upload));
    assert_eq!(image["guest_sha256"], sha256(&bytes), "{image:#}");
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let server = Server::start();
    let host = server.address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "POST /api/images/custom HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n\
         Content-Length: 10000000\r\n\r\n--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.raw\"\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&disk(1 << 20)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    drop(stream);
    let listed = server.until("/api/v1/images", |page| {
        page["items"][0]["state"] == "failed"
    });
    assert_eq!(
        listed["items"][0]["problem"]["code"], "TRUNCATED",
        "{listed:#}"
    );
    for folder in ["spool", "staging", "blobs"] {
        server.until_empty(folder);
    }
}

#[test]
fn what_is_silent_for_too_long_expires() {
    let server = Server::with(&["--upload-expiry", "1"]);
    let upload = begin(&server, Some(1 << 20), "");
    // Under load it may have been silent for a second already.
    let sent = send(&server, &upload, 0, &[1; 100]).status;
    assert!([204, 410].contains(&sent), "{sent}");
    server.until(&format!("/api/v1/images/{}", image_of(&upload)), |image| {
        image["state"] == "expired"
    });
    send(&server, &upload, 100, &[1; 100]).refused(410, "EXPIRED");
    server.until_empty("spool");
}

#[test]
fn a_service_that_is_killed_loses_no_image_and_leaves_no_file() {
    let mut server = Server::start();
    let bytes = router();
    let made = server
        .json("POST", "/api/v1/images", &json!({"name": "first"}))
        .expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    let first = server.call("PUT", &path, &[], &bytes).expect(200);
    let asynchronous = [("prefer", "respond-async")];
    for round in 0..8_u64 {
        let made = server
            .json(
                "POST",
                "/api/v1/images",
                &json!({"name": format!("round-{round}")}),
            )
            .expect(201);
        let id = made["id"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/images/{id}/file");
        let sent = server.call("PUT", &path, &asynchronous, &disk(12 << 20));
        assert_eq!(sent.status, 202, "{}", sent.text());
        std::thread::sleep(Duration::from_millis(round * 40));
        server.kill_and_restart();
        let image = server.settled(&id);
        assert_eq!(image["state"], "ready", "{image:#}");
    }
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/api/v1/images/{id}")).expect(200)["state"],
        "ready"
    );
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
    assert_eq!(server.files("staging"), [] as [PathBuf; 0]);
    // One blob for the first, one for all the others; a manifest for each of nine.
    assert_eq!(server.files("blobs").len(), 2 + 9);
}

#[test]
fn lost_records_are_made_anew_from_the_manifests() {
    let mut server = Server::start();
    let made = server
        .json(
            "POST",
            "/api/v1/images",
            &json!({"name": "router", "tags": ["lab"]}),
        )
        .expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    let image = server.call("PUT", &path, &[], &router()).expect(200);
    server.kill();
    for file in ["records.sqlite", "records.sqlite-wal", "records.sqlite-shm"] {
        let _ = std::fs::remove_file(server.data.join(file));
    }
    // A blob that nobody has, and a file in the making.
    let stray = server.data.join("blobs/sha256/ab").join("ab".repeat(32));
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, "x").unwrap();
    std::fs::write(server.data.join("staging/half"), "x").unwrap();
    server.start_anew();
    let rebuilt = server.get("/api/v1/images/router").expect(200);
    for field in [
        "id",
        "sha256",
        "guest_sha256",
        "tags",
        "state",
        "virtual_size",
    ] {
        assert_eq!(rebuilt[field], image[field], "{field}");
    }
    assert!(!stray.exists());
    assert_eq!(server.files("staging"), [] as [PathBuf; 0]);
}
