//! Images in the page, in a real browser before a real server: sent, cut, gone on with, refused.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::Server;
use common::browser::Browser;
use diskette::Conversion;
use diskette::core::{FormatChoice, MIB, OpenOptions};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A disk of `mib` MiB, as many of which as are wanted hold what does not compress.
fn disk(path: &Path, mib: u64, filled: u64) {
    let file = File::create(path).unwrap();
    file.set_len(mib * MIB).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0; 1 << 20];
    for number in 0..filled {
        for bytes in piece.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all_at(&piece, number * MIB).unwrap();
    }
}

/// The same as a VMDK, under the name of a QCOW2.
fn vmdk(folder: &Path, mib: u64, filled: u64) -> PathBuf {
    let raw = folder.join("disk.raw");
    disk(&raw, mib, filled);
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named("raw".to_owned());
    let path = folder.join("lab-router.qcow2");
    let read = diskette::open_with(&raw, &options).unwrap();
    Conversion::to("vmdk").write(&read, &path).unwrap();
    path
}

fn sha256(path: &Path) -> String {
    let mut digest = Sha256::new();
    let mut file = File::open(path).unwrap();
    std::io::copy(&mut file, &mut Hashing(&mut digest)).unwrap();
    let digest = digest.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Hashing<'a>(&'a mut Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_vmdk_named_qcow2_is_dropped_and_seen_to_arrive_and_to_be_converted() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = vmdk(folder.path(), 64, 24);
    let given = json!({"file": file, "sha256": sha256(&file), "speed": 4 << 20});
    browser.run(&Server::start(), "upload-drop.js", &given);
}

#[test]
fn an_upload_goes_on_after_the_service_was_killed_and_after_the_page_was_loaded_anew() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.img");
    disk(&file, 48, 48);
    let other = folder.path().join("other.img");
    disk(&other, 1, 1);
    // What a browser keeps, it keeps by port.
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port().to_string()
    };
    let server = Server::with(&["--port", &port]);
    let given = json!({
        "file": file, "other": other, "sha256": sha256(&file), "size": 48 * MIB, "speed": 3 << 20, "pid": server.pid(),
        "program": env!("CARGO_BIN_EXE_diskette-service"), "data": server.data,
    });
    browser.run(&server, "upload-cut.js", &given);
}

#[test]
fn a_wrong_digest_and_a_deletion_in_use_are_refused_with_their_reasons() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let given = json!({"file": vmdk(folder.path(), 8, 2)});
    browser.run(&Server::start(), "upload-refused.js", &given);
}

#[test]
fn a_large_upload_keeps_the_memory_of_both_sides_flat() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.img");
    disk(&file, 1024, 96);
    let server = Server::start();
    let given =
        json!({"file": file, "sha256": sha256(&file), "size": 1024 * MIB, "pid": server.pid()});
    let figures = browser.run(&server, "upload-memory.js", &given);
    println!("{figures:#}");
}

#[test]
fn every_screen_of_images_is_accessible_in_light_and_dark_and_on_a_phone() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = vmdk(folder.path(), 8, 2);
    let send = |name: &str, bytes: &[u8]| {
        let new = json!({"name": name, "file_name": format!("{name}.qcow2"), "tags": ["lab"]});
        let made = server.json("POST", "/api/v1/images", &new).expect(201);
        let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
        server.call("PUT", &path, &[], bytes);
        made["id"].as_str().unwrap().to_owned()
    };
    let bytes = std::fs::read(&file).unwrap();
    let ready = send("ready-one", &bytes);
    let failed = send("failed-one", &bytes[..bytes.len() / 2]);
    server
        .json("PUT", "/api/v1/aliases/router", &json!({"image": ready}))
        .expect(200);
    let given = json!({"file": file, "ready": ready, "failed": failed});
    browser.run(&server, "accessible-images.js", &given);
}

#[test]
fn two_files_are_one_image_and_addresses_are_fetched() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let extent = folder.path().join("disk-flat.vmdk");
    disk(&extent, 4, 2);
    let descriptor = folder.path().join("disk.vmdk");
    let text = diskette_testkit::vmdk::descriptor(
        "monolithicFlat",
        &["RW 8192 FLAT \"disk-flat.vmdk\" 0"],
    );
    std::fs::write(&descriptor, text).unwrap();
    let file = folder.path().join("debian.img");
    disk(&file, 3, 1);
    let given = json!({
        "descriptor": descriptor, "extent": extent, "size": 4 * MIB, "sha256": sha256(&extent), "file": file,
        "file_sha256": sha256(&file),
    });
    let server = Server::with(&["--allow-addresses", "127.0.0.1"]);
    browser.run(&server, "upload-together.js", &given);
}

#[test]
fn the_page_logs_in_by_the_printed_address_and_out_again() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let mut server = Server::start();
    let line = server.line();
    let login = line.split_whitespace().last().unwrap();
    browser.run(&server, "session.js", &json!({"login": login}));
}
