//! A file is looked at before it is sent: by its ends, and by what is asked for besides.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::io::Write;

use common::{Answer, Server};
use diskette::Conversion;
use diskette::core::{FormatChoice, OpenOptions};
use diskette_testkit as testkit;
use diskette_testkit::qcow2::Qcow2;
use serde_json::{Value, json};

const END: usize = 64 << 10;

fn look(server: &Server, name: &str, size: usize, parts: &[(usize, &[u8])]) -> Answer {
    let list = parts
        .iter()
        .map(|(offset, bytes)| format!("{offset}-{}", bytes.len()));
    let list = list.collect::<Vec<_>>().join(",");
    let path = format!("/api/v1/detect?size={size}&name={name}&parts={list}");
    let body: Vec<u8> = parts.iter().flat_map(|(_, part)| part.to_vec()).collect();
    let kind = [("content-type", "application/octet-stream")];
    server.call("POST", &path, &kind, &body)
}

/// As the page does it: the ends, then what is asked for.
fn looked(server: &Server, name: &str, file: &[u8]) -> Value {
    let head = file.len().min(END);
    let mut parts = vec![(0, &file[..head])];
    if file.len() > head {
        let tail = head.max(file.len() - END);
        parts.push((tail, &file[tail..]));
    }
    let mut found = Value::Null;
    for _ in 0..6 {
        found = look(server, name, file.len(), &parts).expect(200);
        for want in found["wants"].as_array().unwrap() {
            let number = |name: &str| usize::try_from(want[name].as_u64().unwrap()).unwrap();
            let (start, len) = (number("offset"), number("length"));
            parts.push((start, &file[start..start + len]));
        }
    }
    found
}

#[test]
fn every_format_is_known_by_a_part_of_its_bytes() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    let mut bytes = vec![0; 6 << 20];
    bytes[1 << 20..3 << 20].fill(7);
    std::fs::write(&raw, &bytes).unwrap();
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named("raw".to_owned());
    let disk = diskette::open_with(&raw, &options).unwrap();
    for format in ["qcow2", "vmdk", "vdi", "vhdx", "vpc"] {
        let path = folder.path().join(format!("disk.{format}"));
        let conversion = match format {
            "vpc" => Conversion::to(format).option("force_size", "on"),
            _ => Conversion::to(format),
        };
        conversion.write(&disk, &path).unwrap();
        let found = looked(&server, "disk.qcow2", &std::fs::read(&path).unwrap());
        assert_eq!(found["format"], format, "{found:#}");
        assert_eq!(found["virtual_size"], 6 << 20, "{found:#}");
        assert_eq!(found["name_mismatch"], format != "qcow2");
        assert_eq!(found["suggested_name"], "disk");
        for none in ["wants", "problems", "notes"] {
            assert_eq!(found[none], json!([]), "{found:#}");
        }
    }
    assert_eq!(looked(&server, "disk.img", &bytes)["format"], "raw");
}

#[test]
fn what_is_packed_is_known_by_what_comes_out_first() {
    let server = Server::start();
    let router = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/router.qcow2");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&std::fs::read(router).unwrap()).unwrap();
    let packed = packer.finish().unwrap();
    let found = looked(&server, "router.qcow2.gz", &packed);
    assert_eq!(found["wrapping"], "gzip");
    assert_eq!(found["format"], "vmdk");
    assert_eq!(found["name_mismatch"], true);
}

#[test]
fn what_would_be_refused_is_told_before_it_is_sent() {
    let server = Server::with(&["--max-upload", "1M"]);
    let found = look(&server, "disk.img", 2 << 20, &[(0, &[0; 512])]).expect(200);
    assert_eq!(found["problems"][0]["code"], "TOO_LARGE");
    let descriptor =
        testkit::vmdk::descriptor("monolithicFlat", &["RW 2048 FLAT \"disk-flat.vmdk\" 0"]);
    let found = looked(&server, "disk.vmdk", &descriptor);
    assert_eq!(found["format"], "vmdk");
    assert_eq!(found["problems"][0]["code"], "EXTENT_REFUSED", "{found:#}");
    let overlay = Qcow2::v3(1 << 20).backing("base.raw", "raw").build();
    let found = looked(&server, "overlay.qcow2", &overlay.bytes);
    assert_eq!(
        found["problems"][0]["code"], "BACKING_FILE_REFUSED",
        "{found:#}"
    );
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let server = Server::start();
    look(&server, "x", 10, &[(5, b"123456")]).refused(400, "BAD_REQUEST");
    let call = |path: &str, body: &[u8]| server.call("POST", path, &[], body);
    let path = "/api/v1/detect?size=10&parts=";
    call(&format!("{path}0-5"), b"1234").refused(400, "BAD_REQUEST");
    call(&format!("{path}0-3"), b"1234").refused(400, "BAD_REQUEST");
    call(&format!("{path}x"), b"").refused(400, "BAD_REQUEST");
    call("/api/v1/detect?parts=", b"").refused(400, "BAD_REQUEST");
    let found = call("/api/v1/detect?size=0&parts=0-0", b"").expect(200);
    assert_eq!(found["format"], "raw");
}
