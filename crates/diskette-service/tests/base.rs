//! Base images are fetched from servers that misbehave: the right file is there in the end, or a clear word why not; and the
//! service answers all the while.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;
#[path = "common/mirror.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    missing_docs,
    clippy::cast_precision_loss,
    reason = "the tests' own server"
)]
mod mirror;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Server;
use diskette::Conversion;
use mirror::{File, How, Mirror};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

const LOCAL: [&str; 2] = ["--allow-addresses", "127.0.0.1"];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A small VMDK.
fn router() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2");
    std::fs::read(path).unwrap()
}

/// A QCOW2 image of so many MiB that do not compress.
fn large(mib: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("raw"), folder.path().join("image"));
    std::fs::write(&raw, bytes).unwrap();
    let mut opening = diskette::safe_options();
    opening.format = diskette::core::FormatChoice::Named("raw".to_owned());
    let disk = diskette::open_with(&raw, &opening).unwrap();
    Conversion::to("qcow2").write(&disk, &path).unwrap();
    std::fs::read(path).unwrap()
}

fn local() -> Server {
    Server::with(&LOCAL)
}

fn with(flags: &[&str]) -> Server {
    Server::with(&[&LOCAL, flags].concat())
}

/// Puts an entry, and has it fetched; gives how the operation ended.
fn fetched(server: &Server, name: &str, entry: &Value) -> Value {
    let path = format!("/api/v1/catalog/{name}");
    let put = server.json("PUT", &path, entry);
    assert!([200, 201].contains(&put.status), "{}", put.text());
    let begun = server
        .call("POST", &format!("{path}/fetch"), &[], &[])
        .expect(202);
    ended(server, &begun)
}

fn ended(server: &Server, begun: &Value) -> Value {
    let path = format!("/api/v1/operations/{}", begun["id"].as_str().unwrap());
    server.until(&path, |operation| operation["state"] != "running")
}

fn base(server: &Server, name: &str) -> Value {
    server.get(&format!("/api/v1/catalog/{name}")).expect(200)
}

fn pinned(urls: &[String], bytes: &[u8]) -> Value {
    json!({"urls": urls, "checksum": {"sha256": sha256(bytes)}})
}

#[test]
fn the_catalog_has_what_publishers_offer_and_what_is_put_into_it() {
    let server = local();
    let catalog = server.get("/api/v1/catalog").expect(200);
    let items = catalog["items"].as_array().unwrap();
    assert_eq!(catalog["summary"]["missing"], items.len());
    assert!(
        catalog["summary"]["cannot_start"]
            .as_array()
            .unwrap()
            .contains(&json!("ubuntu-24-lts"))
    );
    let ubuntu = base(&server, "ubuntu-24-lts");
    assert_eq!(
        (&ubuntu["state"], &ubuntu["checksum_kind"]),
        (&json!("missing"), &json!("signed"))
    );
    // The old name that lies.
    let old = base(&server, "debian-13.qcow2");
    assert_eq!(
        (&old["name"], &old["version"]),
        (&json!("debian-12"), &json!("12"))
    );
    assert!(old["aliases"][0]["note"].is_string());
    assert_eq!(base(&server, "alpine-3")["firmware"], "uefi");

    let path = "/api/v1/catalog/mine";
    server.get(path).refused(404, "NOT_FOUND");
    let entry = json!({"urls": ["https://images.example/mine.qcow2"], "os": "mine"});
    assert_eq!(
        server.json("PUT", path, &entry).expect(201)["origin"],
        "api"
    );
    server.json("PUT", path, &entry).expect(200);
    for wrong in [
        json!({}),
        json!({"urls": ["http://images.example/a"]}),
        json!({"urls": ["https://a.example/a", "https://b.example/a"]}),
        json!({"urls": ["https://a.example/a"], "checksum": {"sha256": "12"}}),
        json!({"urls": ["https://a.example/a"], "colour": "red"}),
    ] {
        let answer = server.json("PUT", path, &wrong);
        assert!(
            [400, 403].contains(&answer.status),
            "{wrong}: {}",
            answer.text()
        );
    }
    server.call("DELETE", path, &[], &[]).expect(204);
    server.get(path).refused(404, "NOT_FOUND");
    server
        .call("DELETE", "/api/v1/catalog/cirros", &[], &[])
        .expect(204);
    server
        .get("/api/v1/catalog/cirros")
        .refused(404, "NOT_FOUND");
    server
        .call("POST", "/api/v1/catalog/nobody/fetch", &[], &[])
        .refused(404, "NOT_FOUND");
}

#[test]
fn a_base_image_is_fetched_once_and_its_aliases_lead_to_it() {
    let (server, mirror) = (local(), Mirror::start());
    let url = mirror.put("router.vmdk", File::of(&router()));
    let mut entry = pinned(&[url], &router());
    entry["aliases"] = json!(["router-old.qcow2"]);
    entry["firmware"] = json!("bios");
    let done = fetched(&server, "router", &entry);
    assert_eq!(done["state"], "done", "{done:#}");
    let found = base(&server, "router");
    assert_eq!(found["state"], "present", "{found:#}");
    let image = server.get("/api/v1/images/router-old.qcow2").expect(200);
    assert_eq!(
        (&image["id"], &image["name"]),
        (&found["image"], &json!("router"))
    );
    assert_eq!(image["properties"]["hw_firmware_type"], "bios");
    assert_eq!(image["tags"], json!(["base"]));
    let before = mirror.asked().len();
    let again = server
        .call("POST", "/api/v1/catalog/router/fetch", &[], &[])
        .expect(202);
    assert_eq!(ended(&server, &again)["result"]["fetched"], false);
    assert_eq!(mirror.asked().len(), before);
}

#[test]
fn the_next_mirror_is_asked_on_an_error_a_cut_and_on_wrong_bytes() {
    let (server, mirror) = (local(), Mirror::start());
    let right = router();
    let mut wrong = right.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let urls = [
        mirror.url("gone"),
        mirror.put("wrong", File::of(&wrong)),
        mirror.put("page", File::of(b"<html>please log in</html>")),
        mirror.put("right", File::of(&right)),
    ];
    let done = fetched(&server, "router", &pinned(&urls, &right));
    assert_eq!(done["state"], "done", "{done:#}");
    assert_eq!(done["result"]["url"], urls[3]);
    assert_eq!(base(&server, "router")["fetched_from"], urls[3]);
    let image = server.get("/api/v1/images/router").expect(200);
    assert_eq!(image["source"]["sha256"], sha256(&right));
    let events = server.get("/api/v1/events?after=0&kind=image").text();
    assert_eq!(events.matches("mirror_failed").count(), 3, "{events}");

    // One goes on where another broke off; where that gives a wrong whole, each is asked alone.
    let half = wrong.len() / 2 + 10;
    let urls = [
        mirror.put("wrong-half", File::of(&wrong).how(How::Cut(half, 99))),
        mirror.put("right-too", File::of(&right)),
    ];
    let done = fetched(&server, "mixed", &pinned(&urls, &right));
    assert_eq!(done["state"], "done", "{done:#}");
    let urls = [
        mirror.url("gone"),
        mirror.put("wrong-too", File::of(&wrong)),
    ];
    let done = fetched(&server, "none", &pinned(&urls, &right));
    assert_eq!(done["problem"]["code"], "MIRRORS_EXHAUSTED", "{done:#}");
    assert_eq!(base(&server, "none")["state"], "failed");
    assert!(server.files("spool").is_empty());
}

/// What becomes of a file of such a server: a code, or nothing where it is there in the end.
#[track_caller]
fn expect(server: &Server, name: &str, entry: &Value, code: Option<&str>) {
    let done = fetched(server, name, entry);
    match code {
        None => assert_eq!(done["state"], "done", "{name}: {done:#}"),
        Some(code) => assert_eq!(done["problem"]["code"], code, "{name}: {done:#}"),
    }
    server.plain("GET", "/api/v1/health", &[], &[]).expect(200);
}

#[test]
fn servers_that_misbehave_give_the_right_file_or_a_clear_failure() {
    let server = with(&["--stall-timeout", "1", "--downloads", "20"]);
    let mirror = Mirror::start();
    let bytes = router();
    let put = |name: &str, file: File| [mirror.put(name, file)];
    let of = |how| File::of(&bytes).how(how);
    let whole = bytes.len();
    let cases = [
        ("slow", of(How::Slow(whole as u64)), None),
        ("cut", of(How::Cut(whole / 3, 2)), None),
        (
            "cut-whole",
            of(How::Cut(whole / 3, 2)).without_ranges(),
            None,
        ),
        (
            "cut-unversioned",
            of(How::Cut(whole / 3, 2)).without_etag(),
            None,
        ),
        ("stalls-once", of(How::Stall(whole / 3, 1)), None),
        ("busy", of(How::Status(503, 2)), None),
        ("short", of(How::Short(10)), Some("DOWNLOAD_FAILED")),
        (
            "always-cut",
            of(How::Cut(100, 99)).without_ranges(),
            Some("DOWNLOAD_FAILED"),
        ),
        (
            "forbidden",
            of(How::Status(403, 99)),
            Some("DOWNLOAD_FAILED"),
        ),
        (
            "always-busy",
            of(How::Status(503, 99)),
            Some("DOWNLOAD_FAILED"),
        ),
        (
            "round",
            of(How::To(mirror.url("round"))),
            Some("DOWNLOAD_FAILED"),
        ),
        (
            "away",
            of(How::To("http://169.254.169.254/".to_owned())),
            Some("URL_REFUSED"),
        ),
        ("nothing", File::of(b""), Some("CHECKSUM_MISMATCH")),
        (
            "wrong",
            File::of(&vec![7; whole]),
            Some("CHECKSUM_MISMATCH"),
        ),
    ];
    // All at once: most of the time is spent in waiting.
    std::thread::scope(|scope| {
        for (name, file, code) in cases {
            let entry = pinned(&put(name, file), &bytes);
            let server = &server;
            scope.spawn(move || expect(server, name, &entry, code));
        }
    });
    assert!(server.files("spool").is_empty());
    let summary = &server.get("/api/v1/catalog").expect(200)["summary"];
    assert_eq!(
        (&summary["present"], &summary["failed"]),
        (&json!(6), &json!(8))
    );
}

#[test]
fn a_file_that_changes_while_it_comes_is_not_mixed() {
    let (server, mirror) = (local(), Mirror::start());
    let (old, new) = (large(20, 1), large(20, 2));
    // In parts, each with If-Range; the digest is that of the newer one.
    let becomes = How::Becomes(2, Arc::new(new.clone()));
    let url = mirror.put("parts", File::of(&old).how(becomes));
    expect(&server, "parts", &pinned(&[url], &new), None);
    let image = server.get("/api/v1/images/parts").expect(200);
    assert_eq!(image["source"]["sha256"], sha256(&new));
    // In order, and without a digest: by the ETag, or by the bytes alone.
    let entry = |url: String| json!({"urls": [url]});
    let trusting = Server::with(&["--allow-private-urls", "true"]);
    let half = old.len() / 2;
    for (name, file) in [
        ("a", File::of(&old).how(How::Cut(half, 1))),
        ("b", File::of(&old).how(How::Cut(half, 1)).without_ranges()),
        (
            "c",
            File::of(&old)
                .how(How::Cut(half, 1))
                .without_etag()
                .without_ranges(),
        ),
    ] {
        let url = mirror.put(name, file.clone());
        let (other, path, bytes) = (mirror.clone(), name.to_owned(), new.clone());
        let changed = std::thread::spawn(move || {
            while !other.asked().contains(&format!("GET /{path}")) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut file = File {
                bytes: Arc::new(bytes),
                how: How::Well,
                ..file
            };
            file.etag = file.etag.map(|_| "\"2\"".to_owned());
            other.put(&path, file);
        });
        expect(&trusting, name, &entry(url), None);
        changed.join().unwrap();
        let image = trusting.get(&format!("/api/v1/images/{name}")).expect(200);
        assert_eq!(image["source"]["sha256"], sha256(&new), "{name}");
    }
}

#[test]
fn a_large_file_comes_in_parts_where_that_is_safe() {
    let (server, mirror) = (local(), Mirror::start());
    let bytes = large(40, 3);
    let parts = |path: &str| {
        let asked = mirror.asked();
        asked.iter().filter(|line| line.contains(path)).count()
    };
    let url = mirror.put("safe", File::of(&bytes));
    expect(&server, "safe", &pinned(&[url], &bytes), None);
    assert!(parts("safe") >= 5, "{:?}", mirror.asked());
    for (name, file) in [
        ("unversioned", File::of(&bytes).without_etag()),
        ("whole", File::of(&bytes).without_ranges()),
    ] {
        let url = mirror.put(name, file);
        expect(&server, name, &pinned(&[url], &bytes), None);
        assert_eq!(parts(name), 1);
    }
    // Parts that are cut, and those that are others than were asked for.
    let url = mirror.put("cut", File::of(&bytes).how(How::Cut(3 << 20, 4)));
    expect(&server, "cut", &pinned(&[url], &bytes), None);
    let url = mirror.put("other", File::of(&bytes).how(How::OtherRange));
    expect(
        &server,
        "other",
        &pinned(&[url], &bytes),
        Some("DOWNLOAD_FAILED"),
    );
}

#[test]
fn killed_in_the_middle_it_goes_on_without_what_is_there() {
    let mirror = Mirror::start();
    let bytes = large(48, 4);
    let total = bytes.len() as u64;
    // Slower than what comes is written down, which is every 3 s.
    let url = mirror.put("image.qcow2", File::of(&bytes).how(How::Slow(1 << 20)));
    let mut server = local();
    let entry = pinned(&[url], &bytes);
    server
        .json("PUT", "/api/v1/catalog/image", &entry)
        .expect(201);
    server
        .call("POST", "/api/v1/catalog/image/fetch", &[], &[])
        .expect(202);
    let start = Instant::now();
    while mirror.sent() < total / 2 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    server.kill_and_restart();
    let found = server.until("/api/v1/catalog/image", |base| base["fetching"].is_null());
    assert_eq!(found["state"], "present", "{found:#}");
    let image = server.get("/api/v1/images/image").expect(200);
    assert_eq!(image["source"]["sha256"], sha256(&bytes));
    // What was not stable yet when it was killed is fetched again: that of some seconds.
    let again = mirror.sent().saturating_sub(total);
    assert!(
        again < total / 2,
        "{again} of {total} bytes were fetched twice"
    );
    assert_eq!(base(&server, "image")["digest"], sha256(&bytes));
}

fn catalog_file(folder: &Path, text: &str) -> String {
    let path = folder.join("catalog.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn what_is_missing_is_fetched_at_the_start_and_nothing_at_the_second() {
    let mirror = Mirror::start();
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (router(), large(1, 5));
    let first_url = mirror.put("first", File::of(&first));
    let second_url = mirror.put("second", File::of(&second));
    let gone = mirror.url("gone");
    let text = format!(
        "builtin = false\n\
         [images.first]\nurls = [\"{first_url}\"]\nchecksum.sha256 = \"{}\"\n\
         [images.second]\nurls = [\"{second_url}\"]\nchecksum.sha512 = \"{}\"\n\
         [images.gone]\nurls = [\"{gone}\"]\nchecksum.sha256 = \"{}\"\n",
        sha256(&first),
        hex(&Sha512::digest(&second)),
        "0".repeat(64),
    );
    let file = catalog_file(folder.path(), &text);
    let mut server = with(&["--catalog", &file, "--auto-download", "true"]);
    let path = "/api/v1/catalog";
    let catalog = server.until(path, |catalog| {
        catalog["summary"]["present"] == 2 && catalog["summary"]["fetching"] == 0
    });
    assert_eq!(catalog["summary"]["cannot_start"], json!(["gone"]));
    assert_eq!(base(&server, "gone")["problem"]["code"], "DOWNLOAD_FAILED");
    let before = mirror.sent();
    server.kill_and_restart();
    server.until(path, |catalog| catalog["summary"]["failed"] == 1);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(mirror.sent(), before);
    // A catalog that has changed is read without a restart.
    let third = mirror.put("third", File::of(&router()));
    let text = format!(
        "{text}[images.third]\nurls = [\"{third}\"]\nchecksum.sha256 = \"{}\"\n",
        sha256(&router())
    );
    catalog_file(folder.path(), &text);
    server.until("/api/v1/catalog/third", |base| base["state"] == "present");
}

#[test]
fn switched_off_no_request_leaves_and_named_only_these_do() {
    let mirror = Mirror::start();
    let folder = tempfile::tempdir().unwrap();
    let url = mirror.put("first", File::of(&router()));
    let digest = sha256(&router());
    let entry = |name: &str| {
        format!("[images.{name}]\nurls = [\"{url}\"]\nchecksum.sha256 = \"{digest}\"\n")
    };
    let text = format!("builtin = false\n{}{}", entry("a"), entry("b"));
    let file = catalog_file(folder.path(), &text);
    let list = mirror.put("catalog.toml", File::of(text.as_bytes()));
    let off = with(&[
        "--catalog",
        &file,
        "--catalog-url",
        &list,
        "--auto-download",
        "false",
    ]);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(
        off.get("/api/v1/catalog").expect(200)["summary"]["missing"],
        2
    );
    assert_eq!(mirror.connections(), 0);
    let named = with(&["--catalog", &file, "--auto-download", "b"]);
    named.until("/api/v1/catalog/b", |base| base["state"] == "present");
    assert_eq!(base(&named, "a")["state"], "missing");
    assert_eq!(mirror.asked(), ["GET /first"]);
    let listed = Server::with(&[
        "--allow-private-urls",
        "true",
        "--catalog-url",
        &list,
        "--auto-download",
        "a",
    ]);
    listed.until("/api/v1/catalog/a", |base| base["state"] == "present");
    assert_eq!(base(&listed, "a")["origin"], "url");
}

#[test]
fn the_start_waits_for_no_download() {
    let mirror = Mirror::start();
    let folder = tempfile::tempdir().unwrap();
    let url = mirror.put("slow", File::of(&large(4, 6)).how(How::Slow(64 << 10)));
    let text = format!(
        "builtin = false\n[images.slow]\nurls = [\"{url}\"]\nchecksum.sha256 = \"{}\"\n",
        "0".repeat(64)
    );
    let file = catalog_file(folder.path(), &text);
    let start = Instant::now();
    let server = with(&["--catalog", &file, "--auto-download", "true"]);
    server.plain("GET", "/api/v1/health", &[], &[]).expect(200);
    assert!(start.elapsed() < Duration::from_secs(10));
    let found = server.until("/api/v1/catalog/slow", |base| {
        base["fetching"]["bytes_received"].as_u64() > Some(0)
    });
    assert_eq!(found["state"], "fetching");
    assert!(
        found["fetching"]["bytes_total"].as_u64() > Some(0),
        "{found:#}"
    );
    let operations = server.get("/api/v1/operations").expect(200);
    let operation = &operations[0];
    assert_eq!(
        (&operation["kind"], &operation["state"]),
        (&json!("fetch"), &json!("running"))
    );
    let path = format!("/api/v1/operations/{}", operation["id"].as_str().unwrap());
    server.call("DELETE", &path, &[], &[]);
    let cancelled = server.until(&path, |operation| operation["state"] != "running");
    assert_eq!(cancelled["state"], "cancelled", "{cancelled:#}");
    assert_eq!(base(&server, "slow")["problem"]["code"], "CANCELLED");
}

#[test]
fn what_is_newer_is_told_and_taken_when_it_is_asked_for() {
    let mirror = Mirror::start();
    let server = with(&["--keep-versions", "1"]);
    let sums = |bytes: &[u8]| {
        File::of(format!("{}  image.qcow2\n", hex(&Sha512::digest(bytes))).as_bytes())
    };
    let versions: Vec<_> = (10..13).map(|seed| large(1, seed)).collect();
    let url = mirror.put("image.qcow2", File::of(&versions[0]));
    let sums_url = mirror.put("SUMS", sums(&versions[0]));
    let entry = json!({"urls": [url], "checksum": {"url": sums_url}, "aliases": ["image-old"]});
    let refused = server.json("PUT", "/api/v1/catalog/image", &entry);
    refused.refused(403, "URL_REFUSED");

    let server = Server::with(&["--allow-private-urls", "true", "--keep-versions", "1"]);
    assert_eq!(fetched(&server, "image", &entry)["state"], "done");
    let first = base(&server, "image")["image"].as_str().unwrap().to_owned();
    // A machine stays with the version that it has.
    let node = json!({"name": "one", "image": "image"});
    let node = server.json("POST", "/api/v1/nodes", &node).expect(201);
    // What somebody has sent under a base image's name is nobody's older version.
    let other = mirror.put("other", File::of(&versions[2]));
    let import = json!({"url": other, "name": "cirros"});
    let sent = server.json("POST", "/api/v1/imports", &import).expect(202);
    server.settled(sent["id"].as_str().unwrap());
    assert_eq!(base(&server, "cirros")["state"], "present");
    let check = json!({"check": true});
    let look = || {
        let begun = server
            .json("POST", "/api/v1/catalog/refresh", &check)
            .expect(202);
        ended(&server, &begun)["result"].clone()
    };
    assert_eq!(look()["newer"], json!([]));
    assert_eq!(server.get("/api/v1/catalog/updates").expect(200), json!([]));
    mirror.put("image.qcow2", File::of(&versions[1]));
    mirror.put("SUMS", sums(&versions[1]));
    assert_eq!(look()["newer"], json!(["image"]));
    let found = server.get("/api/v1/catalog/updates").expect(200);
    assert_eq!(
        (&found[0]["name"], &found[0]["image"]),
        (&json!("image"), &json!(first))
    );
    let events = server.get("/api/v1/events?after=0&kind=catalog").text();
    assert!(events.contains("update_available"), "{events}");
    let begun = server
        .json("POST", "/api/v1/catalog/refresh", &json!({}))
        .expect(202);
    let done = ended(&server, &begun);
    let operation = json!({"id": done["result"]["operations"][0]});
    assert_eq!(ended(&server, &operation)["state"], "done");
    let found = base(&server, "image");
    assert_eq!(
        (&found["image_version"], &found["update_available"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(
        server.get("/api/v1/images/image-old").expect(200)["id"],
        found["image"]
    );
    let path = format!("/api/v1/nodes/{}", node["id"].as_str().unwrap());
    assert_eq!(server.get(&path).expect(200)["image"], first);
    let kept = server.get(&format!("/api/v1/images/{first}")).expect(200);
    assert_eq!(
        (&kept["version"], &kept["current"]),
        (&json!(1), &json!(false))
    );
    // Once nothing uses it, it goes with the next: one is kept.
    let gone = server.call("DELETE", &path, &[], &[]);
    assert!([200, 202, 204].contains(&gone.status), "{}", gone.text());
    mirror.put("image.qcow2", File::of(&versions[2]));
    mirror.put("SUMS", sums(&versions[2]));
    let begun = server.json(
        "POST",
        "/api/v1/catalog/refresh",
        &json!({"names": ["image-old"]}),
    );
    let done = ended(&server, &begun.expect(202));
    let operation = json!({"id": done["result"]["operations"][0]});
    assert_eq!(ended(&server, &operation)["state"], "done");
    assert_eq!(base(&server, "image")["image_version"], 3);
    server
        .get(&format!("/api/v1/images/{first}"))
        .refused(404, "NOT_FOUND");
}

#[test]
fn a_checksum_file_is_taken_from_its_publisher_alone() {
    let mirror = Mirror::start();
    let server = Server::with(&["--allow-private-urls", "true"]);
    let data = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../diskette-wire/tests/signed");
        std::fs::read(path.join(name)).unwrap()
    };
    let text = |name: &str| String::from_utf8(data(name)).unwrap();
    let url = mirror.put("router.qcow2", File::of(&router()));
    for name in ["SUMS", "SUMS.ed.asc", "SUMS.rsa.sig", "CS.asc"] {
        mirror.put(name, File::of(&data(name)));
    }
    let entry = |sums: &str, beside: Option<&str>, keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|name| text(name)).collect();
        let mut signature = json!({"keys": keys});
        if let Some(beside) = beside {
            signature["url"] = json!(mirror.url(beside));
        }
        json!({"urls": [url], "checksum": {"url": mirror.url(sums), "signature": signature}})
    };
    expect(
        &server,
        "a",
        &entry("SUMS", Some("SUMS.ed.asc"), &["ed.asc"]),
        None,
    );
    expect(
        &server,
        "b",
        &entry("SUMS", Some("SUMS.rsa.sig"), &["ed.asc", "rsa.asc"]),
        None,
    );
    expect(&server, "c", &entry("CS.asc", None, &["rsa.asc"]), None);
    let refused = Some("SIGNATURE_REFUSED");
    expect(
        &server,
        "d",
        &entry("SUMS", Some("SUMS.rsa.sig"), &["ed.asc"]),
        refused,
    );
    expect(&server, "e", &entry("SUMS", None, &["ed.asc"]), refused);
    expect(&server, "f", &entry("CS.asc", None, &["ed.asc"]), refused);
    mirror.put(
        "other",
        File::of(
            format!(
                "{}  other.img\n{}  more.img\n",
                "0".repeat(64),
                "1".repeat(64)
            )
            .as_bytes(),
        ),
    );
    let unlisted = json!({"urls": [url], "checksum": {"url": mirror.url("other")}});
    expect(&server, "g", &unlisted, Some("CHECKSUM_MISMATCH"));
    let nowhere = json!({"urls": [url], "checksum": {"url": mirror.url("nowhere")}});
    expect(&server, "h", &nowhere, Some("DOWNLOAD_FAILED"));
    assert_eq!(base(&server, "a")["checksum_kind"], "signed");
}

#[test]
fn a_file_put_there_by_hand_becomes_the_base_image_and_a_bad_one_is_put_away() {
    let mirror = Mirror::start();
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let right = router();
    let url = mirror.put("router.vmdk", File::of(&right));
    let entry = |name: &str, alias: &str, digest: &str| {
        format!(
            "[images.{name}]\nurls = [\"{url}\"]\naliases = [\"{alias}\"]\nchecksum.sha256 = \"{digest}\"\n"
        )
    };
    let digest = sha256(&right);
    let text = [
        "builtin = false\n".to_owned(),
        entry("early", "early.qcow2", &digest),
        entry("late", "late-old.qcow2", &digest),
        entry("bad", "bad.qcow2", &digest),
    ];
    let file = catalog_file(folder.path(), &text.concat());
    std::fs::write(images.join("early.qcow2"), &right).unwrap();
    let shown = images.display().to_string();
    let off = with(&["--catalog", &file, "--images", &shown]);
    let settled = |base: &Value| base["state"] == "present" && base["digest"] == digest;
    let early = off.until("/api/v1/catalog/early", settled);
    assert_eq!(
        off.get("/api/v1/images/early.qcow2").expect(200)["id"],
        early["image"]
    );
    // One that comes later, and grows for a while.
    let path = images.join("late-old.qcow2");
    for part in 1..=8 {
        // What is seen twice with the same size is taken for whole.
        std::fs::write(&path, &right[..right.len() * part / 8]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let late = off.until("/api/v1/catalog/late", settled);
    assert_eq!(late["update_available"], false);
    assert_eq!(mirror.connections(), 0);
    let mut wrong = right.clone();
    wrong[right.len() / 2] ^= 1;
    std::fs::write(images.join("bad.qcow2"), &wrong).unwrap();
    let bad = off.until("/api/v1/catalog/bad", |base| base["state"] == "failed");
    let code = bad["problem"]["code"].as_str().unwrap();
    assert!(["CHECKSUM_MISMATCH", "CORRUPT"].contains(&code), "{bad:#}");
    let away = images.join("quarantine/bad.qcow2");
    let start = Instant::now();
    while !images.join("quarantine/bad.qcow2.reason.json").exists() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read(&away).unwrap(), wrong);
    assert!(!images.join("bad.qcow2").exists());
    drop(off);
    // Where downloads are switched on, the right one is fetched instead.
    std::fs::rename(&away, images.join("bad.qcow2")).unwrap();
    let on = with(&[
        "--catalog",
        &file,
        "--images",
        &shown,
        "--auto-download",
        "true",
    ]);
    // Where it was fetched from is recorded a moment after it is there.
    on.until("/api/v1/catalog/bad", |base| {
        base["state"] == "present" && base["fetched_from"] == url
    });
    assert!(away.exists());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_with_the_user_and_the_right() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_diskette-service"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--data",
            &data,
            "--store",
            "/proc/images",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("the folder /proc/images cannot be written to by the user"),
        "{text}"
    );
    assert!(text.contains("u+wx") && !text.contains("777"), "{text}");
}
