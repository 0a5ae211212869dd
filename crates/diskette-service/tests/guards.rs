//! What leads out of an image, or is none, is refused with its code; and nothing is left of it.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::Server;
use common::images::converted;
use diskette::core::{BackingImage, NewImage};
use diskette_testkit as testkit;
use diskette_testkit::qcow2::Qcow2;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The SHA-256 of a MiB of sevens.
const GUEST: &str = "51b12eb838732b786b4d45c660a974ddf3860ae09084fd293fa6e5df46581a6c";

/// Sent by PUT, and refused with this code.
#[track_caller]
fn refused(server: &Server, name: &str, bytes: &[u8], status: u16, code: &str) {
    refused_as(server, &json!({"name": name}), bytes, status, code);
}

#[track_caller]
fn refused_as(server: &Server, new: &serde_json::Value, bytes: &[u8], status: u16, code: &str) {
    let made = server.json("POST", "/api/v1/images", new).expect(201);
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/images/{id}/file");
    server.call("PUT", &path, &[], bytes).refused(status, code);
    let image = server.get(&format!("/api/v1/images/{id}")).expect(200);
    assert_eq!(image["state"], "failed");
    assert_eq!(image["problem"]["code"], code);
    let report = server
        .get(&format!("/api/v1/images/{id}/report"))
        .expect(200);
    assert_eq!(report["refused"]["code"], code);
}

#[track_caller]
fn nothing_is_left(server: &Server) {
    for folder in ["blobs", "spool", "staging", "quarantine"] {
        assert_eq!(server.files(folder), [] as [PathBuf; 0]);
    }
}

#[test]
fn references_to_other_files_are_refused() {
    let server = Server::start();
    let qcow2 = || Qcow2::v3(1 << 20);
    let overlay = qcow2().backing("/etc/passwd", "raw").build().bytes;
    refused(&server, "overlay", &overlay, 422, "BACKING_FILE_REFUSED");
    let protocol = qcow2()
        .backing("json:{\"driver\":\"nbd\"}", "raw")
        .build()
        .bytes;
    refused(&server, "protocol", &protocol, 422, "BACKING_FILE_REFUSED");
    let data_file = qcow2().data_file("/etc/shadow").build().bytes;
    refused(&server, "data-file", &data_file, 422, "DATA_FILE_REFUSED");
    for (number, extent) in [
        "RW 2048 FLAT \"/etc/passwd\" 0",
        "RW 2048 FLAT \"../../etc/passwd\" 0",
        "RW 2048 FLAT \"beside.vmdk\" 0",
        "RW 2048 SPARSE \"beside.vmdk\"",
    ]
    .into_iter()
    .enumerate()
    {
        let text = testkit::vmdk::descriptor("monolithicFlat", &[extent]);
        refused(
            &server,
            &format!("extent-{number}"),
            &text,
            422,
            "EXTENT_REFUSED",
        );
    }
    for format in ["vmdk", "vhdx"] {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = (folder.path().join("base"), folder.path().join("child"));
        diskette::create(&base, format, &NewImage::new(1 << 20)).unwrap();
        let mut below = BackingImage::new("base", format);
        below.identity = diskette::open(&base).unwrap().top().info.identity.clone();
        let image = NewImage::new(1 << 20).with_backing(below);
        diskette::create(&child, format, &image).unwrap();
        let bytes = std::fs::read(&child).unwrap();
        refused(
            &server,
            &format!("child-{format}"),
            &bytes,
            422,
            "PARENT_REFUSED",
        );
    }
    let vhd = testkit::vpc::Vpc::new(1 << 20)
        .over(1, "parent.vhd")
        .build();
    refused(&server, "vhd", &vhd, 422, "PARENT_REFUSED");
    nothing_is_left(&server);
}

#[test]
fn what_is_no_image_or_two_is_refused() {
    let server = Server::start();
    refused(&server, "empty", b"", 422, "TRUNCATED");
    let mut two = Qcow2::v3(1 << 20).build().bytes;
    two.resize(1 << 20, 0);
    let footer = converted("vpc", &[("subformat", "fixed"), ("force_size", "on")]);
    two.extend_from_slice(&footer[footer.len() - 512..]);
    refused(&server, "two", &two, 422, "NESTED_FORMAT");
    nothing_is_left(&server);
}

#[test]
fn a_disk_whose_guest_has_written_an_image_stays_a_disk() {
    let server = Server::start();
    let mut disk = Qcow2::v3(1 << 20)
        .backing("/etc/passwd", "raw")
        .build()
        .bytes;
    disk.resize(2 << 20, 0);
    let new = json!({"name": "raw", "format": "raw"});
    let made = server.json("POST", "/api/v1/images", &new).expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    let stored = server.call("PUT", &path, &[], &disk).expect(200);
    assert_eq!(stored["source"]["format"], "raw");
    assert_eq!(stored["virtual_size"], 2 << 20);
    assert!(server.get("/api/v1/images/raw/data?format=raw").bytes == disk);
}

#[test]
fn encrypted_images_are_refused() {
    let Some(qemu_img) = testkit::qemu_img() else {
        return;
    };
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        ("luks", "key-secret=s,iter-time=10"),
        (
            "qcow2",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        ),
        ("qcow2", "encrypt.format=aes,encrypt.key-secret=s"),
    ];
    for (number, (format, options)) in kinds.into_iter().enumerate() {
        let path = folder.path().join(number.to_string()).display().to_string();
        let secret = "secret,id=s,data=abc";
        qemu_img.run([
            "create", "-q", "--object", secret, "-f", format, "-o", options, &path, "1M",
        ]);
        let name = format!("encrypted-{number}");
        refused(
            &server,
            &name,
            &std::fs::read(&path).unwrap(),
            422,
            "ENCRYPTED",
        );
    }
    nothing_is_left(&server);
}

#[test]
fn what_is_cut_off_is_refused_wherever_it_ends() {
    let server = Server::start();
    for (format, options) in [
        ("qcow2", &[][..]),
        ("vmdk", &[("subformat", "streamOptimized")][..]),
        ("vmdk", &[("subformat", "monolithicSparse")][..]),
        ("vdi", &[][..]),
        ("vhdx", &[][..]),
        ("vpc", &[("subformat", "dynamic"), ("force_size", "on")][..]),
    ] {
        let whole = converted(format, options);
        for (number, part) in [3, 5, 7, 9].into_iter().enumerate() {
            let cut = &whole[..whole.len() * part / 10];
            let name = format!("{format}-{}-{number}", options.len());
            let made = server
                .json("POST", "/api/v1/images", &json!({"name": name}))
                .expect(201);
            let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
            let answer = server.call("PUT", &path, &[], cut);
            if answer.status == 200 && answer.value()["guest_sha256"] == GUEST {
                // Nothing but room that nobody uses was cut off.
                continue;
            }
            let code = answer.value()["code"].as_str().unwrap_or("").to_owned();
            assert!(
                answer.status == 422 && ["TRUNCATED", "CORRUPT"].contains(&code.as_str()),
                "{format} {options:?} at {part}0 %: {}",
                answer.text()
            );
        }
    }
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
}

#[test]
fn what_is_too_large_is_refused_before_it_costs_anything() {
    let server = Server::with(&[
        "--max-upload",
        "1M",
        "--max-virtual-size",
        "1G",
        "--quota",
        "10M",
    ]);
    let refusal = server.json(
        "POST",
        "/api/v1/images",
        &json!({"name": "a", "size": 2 << 20}),
    );
    let refusal = refusal.refused(413, "TOO_LARGE");
    assert_eq!(
        (&refusal["limit"], &refusal["setting"]),
        (&json!(1 << 20), &json!("max_upload"))
    );
    let made = server
        .json("POST", "/api/v1/images", &json!({"name": "more"}))
        .expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    let large = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&large, vec![1; 2 << 20]).unwrap();
    // A client that sees the answer before it has sent all.
    let token = format!("Authorization: Bearer {}", server.token);
    let answer = Command::new("curl")
        .args(["--silent", "-H", &token, &server.url(&path), "-T"])
        .arg(large.path())
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["code"], "TOO_LARGE", "{answer:#}");
    let huge = Qcow2::v3(2 << 30).build().bytes;
    refused(&server, "huge", &huge, 413, "VIRTUAL_SIZE_TOO_LARGE");
    for number in 0..5 {
        let new = json!({"name": format!("room-{number}"), "size": 1 << 20});
        server.json("POST", "/api/v1/images", &new).expect(201);
    }
    let new = json!({"name": "no-room", "size": 1 << 20});
    server
        .json("POST", "/api/v1/images", &new)
        .refused(403, "QUOTA_EXCEEDED");
    // Nor is there room for what says nothing of its size, or says it late.
    let made = server.json("POST", "/api/v1/images", &json!({"name": "late"}));
    let path = format!(
        "/api/v1/images/{}/file",
        made.expect(201)["id"].as_str().unwrap()
    );
    server
        .call("PUT", &path, &[], &[1; 1 << 16])
        .refused(403, "QUOTA_EXCEEDED");
    let full = Server::with(&["--min-free", "1000T"]);
    full.json("POST", "/api/v1/images", &json!({"name": "a", "size": 1}))
        .refused(507, "DISK_FULL");
}

#[test]
fn names_are_labels_and_never_paths() {
    let server = Server::start();
    for name in ["../x", "a/b", "..", "", "a\u{0}b", &"x".repeat(4096)] {
        server
            .json("POST", "/api/v1/images", &json!({"name": name}))
            .refused(400, "BAD_REQUEST");
    }
    for path in [
        "/api/v1/images/..%2f..%2fetc%2fpasswd",
        "/api/v1/images/%00",
        "/api/v1/images/..%2frecords.sqlite/data",
    ] {
        server.get(path).refused(404, "NOT_FOUND");
    }
    let new = json!({"name": "x", "file_name": "../../../etc/cron.d/x"});
    let made = server.json("POST", "/api/v1/images", &new).expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    server.call("PUT", &path, &[], &[1; 4096]).expect(200);
    assert_eq!(server.files("blobs").len(), 2);
}

#[test]
fn a_name_that_lies_is_told_or_refused_where_that_is_asked_for() {
    let server = Server::start();
    let bytes = converted("vdi", &[]);
    let new = json!({"name": "a", "file_name": "a.vmdk", "strict": true});
    refused_as(&server, &new, &bytes, 422, "FORMAT_MISMATCH");
    let wrong = json!({"name": "b", "sha256": "0".repeat(64)});
    refused_as(&server, &wrong, &bytes, 422, "CHECKSUM_MISMATCH");
    nothing_is_left(&server);
}

#[test]
fn bytes_that_are_damaged_and_not_those_that_were_promised_are_told_by_their_digest() {
    let server = Server::start();
    let mut damaged = converted("qcow2", &[]);
    let cut = damaged[..damaged.len() / 2].to_vec();
    // Where the first table is.
    damaged[40..48].fill(0xff);
    for (bytes, code) in [(damaged, "CORRUPT"), (cut, "TRUNCATED")] {
        let digest = Sha256::digest(&bytes);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let right = json!({"name": "a", "sha256": digest});
        refused_as(&server, &right, &bytes, 422, code);
        for digest in [("sha256", 64), ("sha512", 128)] {
            let wrong = json!({"name": "a", digest.0: "0".repeat(digest.1)});
            refused_as(&server, &wrong, &bytes, 422, "CHECKSUM_MISMATCH");
        }
    }
    nothing_is_left(&server);
}
