//! Images are listed, changed, versioned, acted on, and deleted.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;

use common::Server;
use diskette_testkit::tools::Tool;
use serde_json::{Value, json};

fn disk(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; 3 << 20];
    for (at, byte) in bytes.iter_mut().enumerate().take(1 << 20) {
        *byte = u8::try_from(at % 97).unwrap() ^ seed;
    }
    bytes
}

fn stored(server: &Server, new: &Value, bytes: &[u8]) -> Value {
    let made = server.json("POST", "/api/v1/images", new).expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    server.call("PUT", &path, &[], bytes).expect(200)
}

fn operation(server: &Server, id: &str, action: &str, body: &Value) -> Value {
    let path = format!("/api/v1/images/{id}/actions/{action}");
    let begun = server.json("POST", &path, body).expect(202);
    let path = format!("/api/v1/operations/{}", begun["id"].as_str().unwrap());
    server.until(&path, |operation| operation["state"] != "running")
}

/// A disk that sfdisk or mkfs has made of a file of 32 MiB, as a VMDK.
fn made_by(tool: &Tool, arguments: &[&str], script: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    std::fs::File::create(&raw)
        .unwrap()
        .set_len(32 << 20)
        .unwrap();
    let mut command = tool.command();
    command.args(arguments).arg(&raw).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that reads nothing may have ended.
    let _ = stdin.write_all(script.as_bytes());
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let mut options = diskette::safe_options();
    options.format = diskette::core::FormatChoice::Named("raw".to_owned());
    let disk = diskette::open_with(&raw, &options).unwrap();
    let vmdk = folder.path().join("vmdk");
    diskette::Conversion::to("vmdk")
        .write(&disk, &vmdk)
        .unwrap();
    std::fs::read(&vmdk).unwrap()
}

#[test]
fn an_image_that_is_laid_out_for_clouds_is_launched_as_one_whatever_its_format_and_name() {
    let (Some(sfdisk), Some(mkfs)) = (Tool::find("sfdisk"), Tool::find("mkfs.ext4")) else {
        return;
    };
    let server = Server::start();
    let preset = |name: &str, bytes: &[u8]| {
        let image = stored(&server, &json!({"name": name}), bytes);
        let path = format!("/api/v1/images/{}/machine", image["id"].as_str().unwrap());
        server.get(&path).expect(200)["preset"].clone()
    };
    let boot = "type=21686148-6449-6E6F-744E-656564454649";
    let cloud = format!("label: gpt\n14: size=3M, {boot}\n15: size=8M, type=U\n1: type=L\n");
    let installed = format!("label: gpt\n1: size=3M, {boot}\n2: size=8M, type=U\n3: type=L\n");
    let sfdisk = |script: &str| made_by(&sfdisk, &["--quiet"], script);
    assert_eq!(preset("numbered", &sfdisk(&cloud)), "cloud");
    assert_eq!(preset("installed", &sfdisk(&installed)), "generic");
    let mkfs = |label: &str| made_by(&mkfs, &["-q", "-F", "-L", label], "");
    assert_eq!(preset("labelled", &mkfs("cloudimg-rootfs")), "cloud");
    assert_eq!(preset("plain", &mkfs("rootfs")), "generic");
}

#[test]
fn images_are_listed_by_pages_and_filters() {
    let server = Server::start();
    for number in 0..7 {
        let new = json!({"name": format!("image-{number}"), "tags": [if number % 2 == 0 { "even" } else { "odd" }]});
        server.json("POST", "/api/v1/images", &new).expect(201);
    }
    for sort in ["created", "-created", "name", "-name", "size"] {
        let mut names = Vec::new();
        let mut path = format!("/api/v1/images?limit=3&sort={sort}");
        loop {
            let page = server.get(&path).expect(200);
            names.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|image| image["name"].to_string()),
            );
            let Some(next) = page["next"].as_str() else {
                break;
            };
            path = format!("/api/v1/images?limit=3&sort={sort}&cursor={next}");
        }
        assert_eq!(names.len(), 7, "{sort}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 7, "{sort}");
    }
    let count = |query: &str| {
        let page = server.get(&format!("/api/v1/images?{query}")).expect(200);
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("tag=even"), 4);
    assert_eq!(count("q=AGE-3"), 1);
    assert_eq!(count("state=ready"), 0);
    server
        .get("/api/v1/images?limit=0")
        .refused(400, "BAD_REQUEST");
    server
        .get("/api/v1/images?cursor=zz")
        .refused(400, "BAD_REQUEST");
    server
        .get("/api/v1/images?colour=red")
        .refused(400, "BAD_REQUEST");
}

#[test]
fn a_change_is_refused_to_who_has_not_seen_the_last() {
    let server = Server::start();
    let image = stored(&server, &json!({"name": "disk"}), &disk(1));
    let path = format!("/api/v1/images/{}", image["id"].as_str().unwrap());
    let seen = server.get(&path);
    let tag = seen.header("etag").to_owned();
    let headers = [
        ("if-match", tag.as_str()),
        ("content-type", "application/json"),
    ];
    let change =
        json!({"description": "mine", "tags": ["a"], "properties": {"hw_disk_bus": "virtio"}});
    let changed = server
        .call("PATCH", &path, &headers, change.to_string().as_bytes())
        .expect(200);
    assert_eq!(changed["description"], "mine");
    assert_eq!(changed["properties"]["hw_disk_bus"], "virtio");
    server
        .call("PATCH", &path, &headers, b"{}")
        .refused(412, "PRECONDITION_FAILED");
    server
        .call("DELETE", &path, &[("if-match", &tag)], &[])
        .refused(412, "PRECONDITION_FAILED");
    assert_eq!(server.call("DELETE", &path, &[], &[]).status, 204);
    server.get(&path).refused(404, "NOT_FOUND");
    assert_eq!(server.files("blobs"), [] as [PathBuf; 0]);
}

#[test]
fn the_same_request_sent_twice_is_done_once() {
    let server = Server::start();
    let headers = [
        ("idempotency-key", "k1"),
        ("content-type", "application/json"),
    ];
    let body = json!({"name": "disk"}).to_string();
    let first = server
        .call("POST", "/api/v1/images", &headers, body.as_bytes())
        .expect(201);
    let second = server
        .call("POST", "/api/v1/images", &headers, body.as_bytes())
        .expect(201);
    assert_eq!(first["id"], second["id"]);
    let other = json!({"name": "other"}).to_string();
    server
        .call("POST", "/api/v1/images", &headers, other.as_bytes())
        .refused(422, "KEY_REUSED");
    server
        .json("POST", "/api/v1/images", &json!({"name": "disk"}))
        .refused(409, "NAME_TAKEN");
}

#[test]
fn a_rewritten_image_is_a_new_version_of_which_names_and_aliases_stand() {
    let server = Server::start();
    let image = stored(&server, &json!({"name": "disk"}), &disk(2));
    let id = image["id"].as_str().unwrap();
    let alias = server
        .json("PUT", "/api/v1/aliases/latest", &json!({"image": id}))
        .expect(200);
    assert_eq!(alias["image"], id);
    let done = operation(&server, "disk", "compact", &json!({"compress": "zstd"}));
    assert_eq!(done["state"], "done", "{done:#}");
    let latest = server.get("/api/v1/images/latest").expect(200);
    assert_eq!(latest["id"], done["result"]["image"]);
    assert_eq!(
        (&latest["version"], &latest["current"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(latest["guest_sha256"], image["guest_sha256"]);
    assert!(latest["stored_size"].as_i64() < image["stored_size"].as_i64());
    let old = server.get(&format!("/api/v1/images/{id}")).expect(200);
    assert_eq!(
        (&old["state"], &old["current"]),
        (&json!("ready"), &json!(false))
    );

    let done = operation(&server, "disk", "resize", &json!({"size": "+2M"}));
    assert_eq!(done["state"], "done", "{done:#}");
    let mut larger = disk(2);
    larger.resize(5 << 20, 0);
    assert!(server.get("/api/v1/images/disk/data?format=raw").bytes == larger);
    let path = "/api/v1/images/disk/actions/resize";
    server
        .json("POST", path, &json!({"size": "1M"}))
        .expect(202);
    let done = operation(&server, "disk", "convert", &json!({"format": "raw"}));
    assert_eq!(done["state"], "done", "{done:#}");
    assert_eq!(
        server.get("/api/v1/images/disk").expect(200)["format"],
        "raw"
    );
    assert!(server.get("/api/v1/images/disk/data").bytes == larger);
    let versions = server
        .get("/api/v1/images?name=disk&versions=true")
        .expect(200);
    let ready = versions["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|image| image["state"] == "ready");
    assert_eq!(ready.count(), 4);
    server
        .json("POST", "/api/v1/images/disk/actions/dance", &json!({}))
        .refused(404, "NOT_FOUND");
}

#[test]
fn a_damaged_blob_is_found_and_put_away() {
    let server = Server::start();
    stored(&server, &json!({"name": "disk"}), &disk(3));
    let done = operation(&server, "disk", "verify", &json!({}));
    assert_eq!(
        (&done["state"], &done["result"]["sound"]),
        (&json!("done"), &json!(true))
    );
    let blob = &server.files("blobs")[0];
    let mut bytes = std::fs::read(blob).unwrap();
    let last = bytes.len() - 70_000;
    bytes[last] ^= 1;
    std::fs::remove_file(blob).unwrap();
    std::fs::write(blob, bytes).unwrap();
    let done = operation(&server, "disk", "verify", &json!({}));
    assert_eq!(
        (&done["state"], &done["problem"]["code"]),
        (&json!("failed"), &json!("CORRUPT"))
    );
    let image = server.get("/api/v1/images?name=disk").expect(200);
    assert_eq!(image["items"][0]["state"], "failed");
    assert_eq!(server.files("quarantine").len(), 1);
}

#[test]
fn a_verification_tells_how_far_it_is_and_ends_when_it_is_cancelled() {
    let server = Server::start();
    stored(&server, &json!({"name": "disk"}), &disk(3));
    // To hash these zeros takes a minute, or many.
    let blob = &server.files("blobs")[0];
    std::fs::remove_file(blob).unwrap();
    let large = std::fs::File::create(blob).unwrap();
    large.set_len(256 << 30).unwrap();
    let begun = server.json("POST", "/api/v1/images/disk/actions/verify", &json!({}));
    let path = begun.expect(202)["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/operations/{path}");
    let begun = server.until(&path, |operation| operation["done"].as_u64() > Some(0));
    assert_eq!(begun["total"], 256_u64 << 30);
    server.call("DELETE", &path, &[], &[]).expect(202);
    let ended = server.until(&path, |operation| operation["state"] != "running");
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    // Nothing is known of it, and nothing done to it.
    let image = server.get("/api/v1/images/disk").expect(200);
    assert_eq!(image["state"], "ready");
    assert!(server.files("quarantine").is_empty());
}

#[test]
fn what_is_switched_off_is_not_given_out() {
    let server = Server::start();
    stored(&server, &json!({"name": "disk"}), &disk(4));
    operation(&server, "disk", "deactivate", &json!({}));
    server
        .get("/api/v1/images/disk/data")
        .refused(409, "NOT_READY");
    operation(&server, "disk", "reactivate", &json!({}));
    assert_eq!(server.get("/api/v1/images/disk/data").status, 200);
}

#[test]
fn what_is_known_of_an_image_is_told() {
    let server = Server::start();
    stored(&server, &json!({"name": "disk"}), &disk(5));
    let info = server.get("/api/v1/images/disk/info").expect(200);
    assert_eq!(info["image"]["format"], "qcow2");
    let check = server.get("/api/v1/images/disk/check").expect(200);
    assert_eq!(
        (&check["corruptions"], &check["leaks"]),
        (&json!(0), &json!(0))
    );
    let map = server.get("/api/v1/images/disk/map").expect(200);
    let lengths = map["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["length"].as_u64().unwrap());
    assert_eq!(lengths.sum::<u64>(), 3 << 20);
    let report = server.get("/api/v1/images/disk/report").expect(200);
    assert_eq!(report["found"]["format"], "raw");
    assert_eq!(report["verified"]["same_guest_data"], true);
}

#[test]
fn events_are_told_in_order_and_go_on_where_one_left_off() {
    let server = Server::start();
    let image = stored(&server, &json!({"name": "disk"}), &disk(6));
    let id = image["id"].as_str().unwrap();
    let events = server.get(&format!("/api/v1/events?id={id}")).expect(200);
    let changes: Vec<_> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["change"].as_str().unwrap())
        .collect();
    assert_eq!(
        changes,
        ["created", "receiving", "converting", "verifying", "ready"]
    );
    let after = events[2]["id"].to_string();
    let host = server.address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "GET /api/v1/events?kind=image HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n\
         Last-Event-ID: {after}\r\n\r\n",
        server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || {
        let line = lines.find(|line| line.starts_with("data: ")).unwrap();
        let event: Value = serde_json::from_str(&line["data: ".len()..]).unwrap();
        event["change"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (next(), next()),
        ("verifying".to_owned(), "ready".to_owned())
    );
    server.call("DELETE", "/api/v1/images/disk", &[], &[]);
    assert_eq!(next(), "deleted");
}

#[test]
fn an_image_that_is_in_use_is_not_deleted() {
    let server = Server::start();
    let image = stored(&server, &json!({"name": "disk"}), &disk(9));
    let id = image["id"].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let records = format!("sqlite:{}", server.data.join("records.sqlite").display());
    let used = |query: &'static str| {
        runtime.block_on(async {
            use sqlx::Connection;
            let mut records = sqlx::SqliteConnection::connect(&records).await.unwrap();
            sqlx::query(query)
                .bind(&id)
                .execute(&mut records)
                .await
                .unwrap();
        });
    };
    used("INSERT INTO image_uses (image, used_by) VALUES (?, 'node 7')");
    let refusal = server
        .call("DELETE", "/api/v1/images/disk", &[], &[])
        .refused(409, "IN_USE");
    assert_eq!(refusal["detail"], "used by node 7");
    assert_eq!(
        server.get("/api/v1/images/disk").expect(200)["in_use_by"],
        1
    );
    used("DELETE FROM image_uses WHERE image = ?");
    assert_eq!(
        server
            .call("DELETE", "/api/v1/images/disk", &[], &[])
            .status,
        204
    );
}

#[test]
fn projects_do_not_see_each_other() {
    let server = Server::start();
    stored(&server, &json!({"name": "disk"}), &disk(7));
    let new = json!({"name": "other", "scope": "write", "project": "other"});
    let made = server.json("POST", "/api/v1/tokens", &new).expect(201);
    let other = format!("Bearer {}", made["token"].as_str().unwrap());
    let other = [("authorization", other.as_str())];
    server
        .plain("GET", "/api/v1/images/disk", &other, &[])
        .refused(404, "NOT_FOUND");
    let id = server.get("/api/v1/images/disk").expect(200)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    server
        .plain("GET", &format!("/api/v1/images/{id}"), &other, &[])
        .refused(404, "NOT_FOUND");
    server
        .plain("DELETE", &format!("/api/v1/images/{id}"), &other, &[])
        .refused(404, "NOT_FOUND");
    let page = server
        .plain("GET", "/api/v1/images", &other, &[])
        .expect(200);
    assert_eq!(page["items"], json!([]));
    server
        .plain("GET", "/api/v1/images?project=default", &other, &[])
        .refused(403, "FORBIDDEN");
}

#[test]
fn a_folder_of_images_is_taken_in_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("old_1700000000000.raw"), disk(8)).unwrap();
    std::fs::write(folder.path().join("notes.txt"), "no image").unwrap();
    let router = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2");
    std::fs::copy(router, folder.path().join("router.qcow2")).unwrap();
    let flags = ["--images", folder.path().to_str().unwrap()];
    let mut server = Server::with(&flags);
    let all_ready = |page: &Value| {
        let items = page["items"].as_array().unwrap();
        items.len() == 2 && items.iter().all(|image| image["state"] == "ready")
    };
    server.until("/api/v1/images", all_ready);
    server.kill_and_restart();
    server.json("POST", "/api/v1/adopt", &json!({})).expect(202);
    server.until("/api/v1/images", all_ready);
    assert!(
        server
            .get("/api/v1/images/old_1700000000000/data?format=raw")
            .bytes
            == disk(8)
    );
    assert!(folder.path().join("router.qcow2").exists());
}

#[test]
fn bytes_that_are_there_already_need_not_be_sent_again() {
    let server = Server::start();
    let bytes = disk(10);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("raw"), &bytes).unwrap();
    let sha256 = |bytes: &[u8]| {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(bytes);
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let sent = sha256(&bytes);
    let asked =
        |digest: &str| server.call("HEAD", &format!("/api/v1/images?sha256={digest}"), &[], &[]);
    assert_eq!(asked(&sent).status, 404);
    let first = stored(
        &server,
        &json!({"name": "first", "file_name": "a.raw", "tags": ["a"]}),
        &bytes,
    );
    for digest in [
        &sent,
        &sent.to_uppercase(),
        first["sha256"].as_str().unwrap(),
    ] {
        let there = asked(digest);
        assert_eq!(there.status, 200);
        assert_eq!(there.header("x-image-id"), first["id"]);
    }
    assert_eq!(asked("abc").status, 400);
    assert_eq!(server.call("HEAD", "/api/v1/images", &[], &[]).status, 400);

    let new = json!({"name": "second", "sha256": sent, "link": true});
    let second = server.json("POST", "/api/v1/images", &new).expect(201);
    assert_eq!(second["state"], "ready");
    for field in ["sha256", "guest_sha256", "virtual_size", "source"] {
        if field != "source" {
            assert_eq!(second[field], first[field], "{field}");
        }
    }
    assert_eq!(second["tags"], json!([]));
    // One blob, two manifests.
    assert_eq!(server.files("blobs").len(), 3);
    assert_eq!(
        server
            .call("DELETE", "/api/v1/images/first", &[], &[])
            .status,
        204
    );
    assert!(server.get("/api/v1/images/second/data?format=raw").bytes == bytes);

    // Bytes that are not there, or that would become something else, are to be sent.
    for new in [
        json!({"name": "third", "sha256": "0".repeat(64), "link": true}),
        json!({"name": "fourth", "sha256": sent, "link": true, "compress": true}),
    ] {
        let image = server.json("POST", "/api/v1/images", &new).expect(201);
        assert_eq!(image["state"], "queued");
    }
    server
        .json(
            "POST",
            "/api/v1/images",
            &json!({"name": "fifth", "link": true}),
        )
        .refused(400, "BAD_REQUEST");
    server
        .json(
            "POST",
            "/api/v1/images",
            &json!({"name": "second", "sha256": sent, "link": true}),
        )
        .refused(409, "NAME_TAKEN");

    // A digest is no proof of having the bytes: other projects are not told.
    let new = json!({"name": "other", "scope": "write", "project": "other"});
    let made = server.json("POST", "/api/v1/tokens", &new).expect(201);
    let other = format!("Bearer {}", made["token"].as_str().unwrap());
    let headers = [
        ("authorization", other.as_str()),
        ("content-type", "application/json"),
    ];
    let path = format!("/api/v1/images?sha256={sent}");
    assert_eq!(server.plain("HEAD", &path, &headers, &[]).status, 404);
    let new = json!({"name": "mine", "sha256": sent, "link": true}).to_string();
    let image = server.plain("POST", "/api/v1/images", &headers, new.as_bytes());
    assert_eq!(image.expect(201)["state"], "queued");
}
