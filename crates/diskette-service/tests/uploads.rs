//! Images go in by curl, by form, by PUT; in any format; and come out verified.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Server;
use diskette::core::{BlockReaderExt, Chain};
use diskette::{Appliance, Conversion};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A VMDK of that name, as SandLabX's users had it.
fn router() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2")
}

fn guest_sha256(disk: &Chain) -> String {
    let digests = diskette::engine::digest(disk, &diskette::engine::Control::default());
    digests.unwrap().sha256_hex().to_string()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As a user would, without a token.
fn curl(server: &Server, fields: &[String]) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error"]);
    for field in fields {
        curl.args(["-F", field]);
    }
    let done = curl.arg(server.url("/api/images/custom")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn sandlabx_s_curl_line_works_unchanged() {
    let server = Server::start();
    let answer = curl(&server, &[format!("image=@{}", router().display())]);
    assert_eq!(answer["success"], true, "{answer:#}");
    let image = &answer["image"];
    assert_eq!(image["format"], "qcow2");
    assert_eq!(image["originalFormat"], "vmdk");
    assert_eq!(image["converted"], true);
    assert_eq!(image["flags"], json!(["name_mismatch"]));
    let disk = diskette::open(router()).unwrap();
    assert_eq!(image["guest_sha256"], guest_sha256(&disk));

    let blobs = server.files("blobs");
    assert_eq!(blobs.len(), 2, "{blobs:?}");
    let stored = diskette::open(&blobs[0]).unwrap();
    assert_eq!(stored.top().info.format, "qcow2");
    assert!(stored.read_vec(0, 1 << 20).unwrap() == disk.read_vec(0, 1 << 20).unwrap());
    assert_eq!(image["sha256"], sha256(&std::fs::read(&blobs[0]).unwrap()));
    for folder in ["spool", "staging", "quarantine"] {
        assert_eq!(server.files(folder), [] as [PathBuf; 0]);
    }
    let listed = server.plain("GET", "/api/images", &[], &[]).expect(200);
    assert_eq!(listed["images"][0]["id"], image["id"]);
    let path = format!("/api/images/{}/validate", image["id"].as_str().unwrap());
    assert_eq!(
        server.plain("POST", &path, &[], &[]).expect(200)["valid"],
        true
    );
    // The same again gets a name of its own, and the same blob.
    let again = curl(&server, &[format!("image=@{}", router().display())]);
    assert_ne!(again["image"]["name"], image["name"]);
    assert_eq!(again["image"]["sha256"], image["sha256"]);
    assert_eq!(server.files("blobs").len(), 3);
}

#[test]
fn text_may_stand_before_and_behind_the_file() {
    let server = Server::start();
    let file = format!("image=@{};filename=../../etc/passwd", router().display());
    let fields = [
        "tags=a, b".to_owned(),
        file,
        "displayName=My router".to_owned(),
        "name=router".to_owned(),
    ];
    let image = &curl(&server, &fields)["image"];
    assert_eq!(image["name"], "router");
    assert_eq!(image["displayName"], "My router");
    assert_eq!(image["tags"], json!(["a", "b"]));
    let answer = curl(&server, &fields);
    assert_eq!(answer["code"], "NAME_TAKEN", "{answer:#}");
    let mut fields = fields.to_vec();
    fields.push("overwrite=true".to_owned());
    let second = &curl(&server, &fields)["image"];
    assert_eq!(second["version"], 2, "{second:#}");
    let images = server.get("/api/v1/images?name=router").expect(200);
    assert_eq!(images["items"].as_array().unwrap().len(), 1, "{images:#}");
    let wrong = [fields[1].clone(), format!("sha256={}", "0".repeat(64))];
    assert_eq!(curl(&server, &wrong)["code"], "CHECKSUM_MISMATCH");
    let right = [
        fields[1].clone(),
        format!("sha256={}", sha256(&std::fs::read(router()).unwrap())),
    ];
    assert_eq!(curl(&server, &right)["success"], true);
}

/// An image that is announced, and sent by PUT.
fn put(server: &Server, new: &Value, bytes: &[u8]) -> common::Answer {
    let made = server.json("POST", "/api/v1/images", new).expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    server.call(
        "PUT",
        &path,
        &[("content-type", "application/octet-stream")],
        bytes,
    )
}

/// A disk of some MiB, with data, zeros and holes.
fn raw_disk() -> Vec<u8> {
    let mut disk = vec![0; 9 << 20];
    for (at, byte) in disk.iter_mut().enumerate().take(3 << 20) {
        *byte = u8::try_from(at * 7 % 251).unwrap();
    }
    disk[(8 << 20) + 5] = 1;
    disk
}

#[test]
fn every_format_becomes_the_same_disk() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, raw_disk()).unwrap();
    let disk = diskette::open_with(&raw, &named("raw")).unwrap();
    let expected = sha256(&raw_disk());
    let kinds = [
        ("raw", None),
        ("qcow2", None),
        ("vmdk", Some(("subformat", "monolithicSparse"))),
        ("vmdk", Some(("subformat", "streamOptimized"))),
        ("vdi", None),
        ("vhdx", None),
        ("vpc", Some(("subformat", "dynamic"))),
        ("vpc", Some(("subformat", "fixed"))),
    ];
    for (number, (format, option)) in kinds.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.{format}"));
        let mut conversion = Conversion::to(format);
        if let Some((name, value)) = option {
            conversion = conversion.option(name, value);
        }
        if format == "vpc" {
            conversion = conversion.option("force_size", "on");
        }
        conversion.write(&disk, &path).unwrap();
        let name = format!("disk-{number}");
        let bytes = std::fs::read(&path).unwrap();
        let new =
            json!({"name": name, "file_name": format!("{name}.{format}"), "size": bytes.len()});
        let image = put(&server, &new, &bytes).expect(200);
        assert_eq!(image["state"], "ready", "{image:#}");
        assert_eq!(image["source"]["format"], format, "{image:#}");
        assert_eq!(image["guest_sha256"], expected, "{format} {option:?}");
        assert_eq!(image["format"], "qcow2");
        assert_eq!(image["source"]["sha256"], sha256(&bytes));
        if format == "qcow2" {
            assert_eq!(image["sha256"], sha256(&bytes), "it is kept as it is");
        }
        // Out again, in the same format and as a raw disk.
        let data = format!("/api/v1/images/{name}/data?format=raw");
        assert!(server.get(&data).bytes == raw_disk(), "{format}");
    }
    for (format, probed) in [
        ("qcow2", "qcow2"),
        ("vmdk", "vmdk"),
        ("vdi", "vdi"),
        ("vhdx", "vhdx"),
        ("vpc", "vpc"),
    ] {
        let data = format!(
            "/api/v1/images/disk-0/data?format={format}&compress={}",
            format == "qcow2"
        );
        let path = folder.path().join(format!("out.{format}"));
        std::fs::write(&path, server.get(&data).bytes).unwrap();
        let out = diskette::open(&path).unwrap();
        assert_eq!(out.top().info.format, probed);
        assert_eq!(out.read_vec(0, 9 << 20).unwrap(), raw_disk(), "{format}");
    }
    assert_eq!(server.files("staging"), [] as [PathBuf; 0]);
}

fn named(format: &str) -> diskette::core::OpenOptions {
    let mut options = diskette::safe_options();
    options.format = diskette::core::FormatChoice::Named(format.to_owned());
    options
}

#[test]
fn stored_bytes_are_had_by_ranges() {
    let server = Server::start();
    let image = put(&server, &json!({"name": "disk"}), &raw_disk()).expect(200);
    let path = "/api/v1/images/disk/data";
    let whole = server.get(path);
    assert_eq!(sha256(&whole.bytes), image["sha256"]);
    let tag = whole.header("etag").to_owned();
    let part = server.call("GET", path, &[("range", "bytes=100-199")], &[]);
    assert_eq!(
        (part.status, part.bytes.as_slice()),
        (206, &whole.bytes[100..200])
    );
    assert_eq!(
        part.header("content-range"),
        format!("bytes 100-199/{}", whole.bytes.len())
    );
    let seen = server.call("GET", path, &[("if-none-match", &tag)], &[]);
    assert_eq!(seen.status, 304);
    server
        .call("GET", path, &[("range", "bytes=99999999-")], &[])
        .refused(416, "RANGE_INVALID");
}

#[test]
fn what_is_compressed_or_in_an_archive_is_taken_out() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, raw_disk()).unwrap();
    for (tool, suffix) in [
        ("gzip", "gz"),
        ("xz", "xz"),
        ("zstd", "zst"),
        ("bzip2", "bz2"),
    ] {
        let packed = folder.path().join(format!("disk.raw.{suffix}"));
        let Ok(done) = Command::new(tool).arg("-kq").arg(&raw).status() else {
            println!("skipped: {tool} is not installed");
            continue;
        };
        assert!(done.success());
        let bytes = std::fs::read(&packed).unwrap();
        let new = json!({"name": suffix, "file_name": format!("disk.raw.{suffix}")});
        let image = put(&server, &new, &bytes).expect(200);
        assert_eq!(image["guest_sha256"], sha256(&raw_disk()));
        assert_eq!(image["flags"], json!([]), "{image:#}");
        let cut = put(
            &server,
            &json!({"name": format!("cut-{suffix}")}),
            &bytes[..bytes.len() / 2],
        );
        cut.refused(422, "TRUNCATED");
    }
    let ova = folder.path().join("machine.ova");
    let disk = diskette::open_with(&raw, &named("raw")).unwrap();
    Appliance::default().write(&[&disk], &ova).unwrap();
    let image = put(
        &server,
        &json!({"name": "machine"}),
        &std::fs::read(&ova).unwrap(),
    )
    .expect(200);
    assert_eq!(image["guest_sha256"], sha256(&raw_disk()));
    let report = server.get("/api/v1/images/machine/report").expect(200);
    assert_eq!(report["wrappings"], json!(["ova"]));
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
}

#[test]
fn a_descriptor_and_its_extent_are_one_image_whichever_comes_first() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, raw_disk()).unwrap();
    let disk = diskette::open_with(&raw, &named("raw")).unwrap();
    let path = folder.path().join("two.vmdk");
    Conversion::to("vmdk")
        .option("subformat", "monolithicFlat")
        .write(&disk, &path)
        .unwrap();
    let fields = ["two.vmdk", "two-flat.vmdk"]
        .map(|name| format!("image=@{}", folder.path().join(name).display()));
    let image = &curl(&server, &fields)["image"];
    assert_eq!(image["guest_sha256"], sha256(&raw_disk()), "{image:#}");
    let [first, second] = fields;
    let answer = curl(&server, &[second, first.clone()]);
    assert_eq!(
        answer["image"]["guest_sha256"],
        sha256(&raw_disk()),
        "{answer:#}"
    );
    let alone = curl(&server, &[first]);
    assert_eq!(alone["code"], "EXTENT_REFUSED", "{alone:#}");
    assert_eq!(server.files("spool"), [] as [PathBuf; 0]);
}

#[test]
fn an_image_in_a_form_is_converted_while_it_comes() {
    use std::io::{Read, Write};
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    let disk: Vec<u8> = (0..16_u32 << 20)
        .map(|at| u8::try_from(((at * 7) >> 9) & 0xff).unwrap() | 1)
        .collect();
    std::fs::write(&raw, &disk).unwrap();
    let image = folder.path().join("image");
    let source = diskette::open(&raw).unwrap();
    diskette::Conversion::to("vdi")
        .write(&source, &image)
        .unwrap();
    let image = std::fs::read(&image).unwrap();
    let head = "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.vdi\"\r\n\r\n";
    let tail = "\r\n--b--\r\n";
    let host = server.address.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let request = format!(
        "POST /api/images/custom HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\n\
         Content-Length: {}\r\n\r\n{head}",
        head.len() + image.len() + tail.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let (most, rest) = image.split_at(image.len() - (4 << 20));
    stream.write_all(most).unwrap();
    server.until("/api/v1/images", |page| {
        page["items"][0]["progress"]["guest_done"]
            .as_u64()
            .unwrap_or(0)
            > 8 << 20
    });
    stream.write_all(rest).unwrap();
    stream.write_all(tail.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let id = server.get("/api/v1/images").expect(200)["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        server
            .get(&format!("/api/v1/images/{id}/data?format=raw"))
            .bytes
            == disk
    );
}
