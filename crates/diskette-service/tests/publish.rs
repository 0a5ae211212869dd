//! A node's disk becomes an image: of a node that rests, is paused, or runs.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::bench::{Bench, console, hear, machine_of, type_in};
use diskette_testkit as testkit;
use serde_json::{Value, json};

/// Publishes a node, and waits for the end of the operation.
fn published(bench: &Bench, node: &str, wanted: &Value) -> Value {
    let path = format!("/api/v1/nodes/{node}/publish");
    let begun = bench.server.json("POST", &path, wanted);
    assert!(begun.header("location").starts_with("/api/v1/operations/"));
    let begun = begun.expect(202);
    assert_eq!(begun["kind"], "publish");
    let path = format!("/api/v1/operations/{}", begun["id"].as_str().unwrap());
    bench
        .server
        .until(&path, |operation| operation["state"] != "running")
}

/// The disk of an image.
fn disk(bench: &Bench, image: &str) -> Vec<u8> {
    let path = format!("/api/v1/images/{image}/data?format=raw");
    bench.server.get(&path).bytes
}

#[test]
fn the_disk_of_a_node_that_rests_becomes_an_image() {
    let Some(bench) = Bench::new() else { return };
    let Some(qemu_img) = testkit::qemu_img() else {
        return;
    };
    let new = json!({"name": "one", "image": "router", "disk_size": 3 << 20});
    let node = bench.server.json("POST", "/api/v1/nodes", &new).expect(201);
    let node = node["id"].as_str().unwrap();
    let overlay = bench.server.data.join("overlays").join(node);
    let overlay = overlay.join("overlay.qcow2").display().to_string();
    let Some(qemu_io) = testkit::tools::Tool::find("qemu-io") else {
        return;
    };
    for command in ["write -P 9 64k 3k", "write -P 8 2M 512k", "write -z 0 512"] {
        qemu_io.run(["-f", "qcow2", "-c", command, &overlay]);
    }
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw").display().to_string();
    qemu_img.run(["convert", "-f", "qcow2", "-O", "raw", &overlay, &raw]);
    let expected = std::fs::read(&raw).unwrap();

    bench
        .server
        .json(
            "POST",
            &format!("/api/v1/nodes/{node}/snapshots"),
            &json!({"name": "kept"}),
        )
        .expect(201);
    let wanted = json!({"name": "golden", "tags": ["mine"], "compress": "zstd"});
    let done = published(&bench, node, &wanted);
    assert_eq!(done["state"], "done", "{done:#}");
    let image = bench.server.get("/api/v1/images/golden").expect(200);
    assert_eq!(image["id"], done["result"]["image"]);
    assert_eq!(
        (&image["kind"], &image["state"], &image["tags"]),
        (&json!("snapshot"), &json!("ready"), &json!(["mine"]))
    );
    assert_eq!(image["virtual_size"], 3 << 20);
    assert!(disk(&bench, "golden") == expected);
    let report = bench.server.get("/api/v1/images/golden/report").expect(200);
    assert_eq!(report["dropped"], json!(["internal snapshots"]));
    assert_eq!(report["verified"]["same_guest_data"], true);
    assert_eq!(bench.server.files("staging").len(), 0);

    // It needs neither the node nor the node's image.
    let path = format!("/api/v1/nodes/{node}");
    assert_eq!(bench.server.call("DELETE", &path, &[], &[]).status, 204);
    let path = "/api/v1/images/router";
    assert_eq!(bench.server.call("DELETE", path, &[], &[]).status, 204);
    let of_it = json!({"name": "two", "image": "golden"});
    bench
        .server
        .json("POST", "/api/v1/nodes", &of_it)
        .expect(201);
}

#[test]
fn a_node_that_runs_is_published_as_it_is_and_goes_on() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node("one", true);
    let ticket = bench.ticket(&node, "serial", false);
    let mut guest = console(&bench.server, &ticket, None).unwrap();
    hear(&mut guest, common::guest::GREETING);
    for (letter, name) in [("A", "first"), ("B", "second")] {
        // The guest writes the letter to its disk before it echoes it.
        type_in(&mut guest, letter);
        hear(&mut guest, letter);
        let done = published(&bench, &node, &json!({"name": name}));
        assert_eq!(done["state"], "done", "{done:#}");
        assert_eq!(disk(&bench, name)[512], letter.as_bytes()[0]);
    }
    bench.until(&node, "running");
    type_in(&mut guest, "C");
    hear(&mut guest, "C");

    bench.step(&node, "pause").expect(200);
    bench.until(&node, "paused");
    let done = published(&bench, &node, &json!({"name": "second", "overwrite": true}));
    assert_eq!(done["state"], "done", "{done:#}");
    assert_eq!(done["result"]["version"], 2);
    assert_eq!(disk(&bench, "second")[512], b'C');
    bench.until(&node, "paused");
}

#[test]
fn a_node_that_is_held_when_the_service_is_killed_goes_on_and_one_that_its_user_paused_does_not() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let (held, paused) = (bench.node("held", true), bench.node("paused", true));
    bench.step(&paused, "pause").expect(200);
    let machines = [&held, &paused].map(|node| machine_of(node));
    for node in [&held, &paused] {
        // Whoever copies the overlay waits at a pipe that nobody writes into. QEMU has its file.
        let overlay = bench.server.data.join("overlays").join(node);
        let overlay = overlay.join("overlay.qcow2");
        std::fs::rename(&overlay, overlay.with_extension("kept")).unwrap();
        nix::unistd::mkfifo(&overlay, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let path = format!("/api/v1/nodes/{node}/publish");
        let wanted = json!({"name": format!("of-{node}")});
        bench.server.json("POST", &path, &wanted).expect(202);
    }
    bench.until(&held, "paused");
    bench.server.kill();
    for node in [&held, &paused] {
        let overlay = bench.server.data.join("overlays").join(node);
        let overlay = overlay.join("overlay.qcow2");
        std::fs::rename(overlay.with_extension("kept"), &overlay).unwrap();
    }
    bench.server.restart();
    bench.until(&held, "running");
    bench.until(&paused, "paused");
    assert_eq!([&held, &paused].map(|node| machine_of(node)), machines);

    // From now on it is its user who pauses it.
    bench.step(&held, "pause").expect(200);
    bench.server.kill_and_restart();
    bench.until(&held, "paused");
}

#[test]
fn what_cannot_be_published_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node("one", false);
    let path = format!("/api/v1/nodes/{node}/publish");
    let publish = |wanted: Value| bench.server.json("POST", &path, &wanted);
    publish(json!({"name": "../x"})).refused(400, "BAD_REQUEST");
    publish(json!({"name": "router"})).refused(409, "NAME_TAKEN");
    publish(json!({"name": "x", "compress": "rar"})).refused(400, "BAD_REQUEST");
    publish(json!({"name": "x", "properties": []})).refused(400, "BAD_REQUEST");
    publish(json!({"nam": "x"})).refused(400, "BAD_REQUEST");
    let none = "/api/v1/nodes/none/publish";
    let refused = bench.server.json("POST", none, &json!({"name": "x"}));
    refused.refused(404, "NOT_FOUND");
    let images = bench.server.get("/api/v1/images").expect(200);
    assert_eq!(images["items"].as_array().unwrap().len(), 1);
}

#[test]
fn an_operation_that_is_cancelled_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let new = json!({"name": "one", "image": "router", "disk_size": 1_u64 << 37});
    let node = bench.server.json("POST", "/api/v1/nodes", &new).expect(201);
    let path = format!("/api/v1/nodes/{}/publish", node["id"].as_str().unwrap());
    let begun = bench.server.json("POST", &path, &json!({"name": "large"}));
    let begun = begun.expect(202);
    let path = format!("/api/v1/operations/{}", begun["id"].as_str().unwrap());
    bench.server.call("DELETE", &path, &[], &[]).expect(202);
    let ended = bench
        .server
        .until(&path, |operation| operation["state"] != "running");
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    let image = begun["image"].as_str().unwrap();
    assert_eq!(bench.server.settled(image)["problem"]["code"], "CANCELLED");
    assert_eq!(bench.server.files("staging").len(), 0);
    assert_eq!(bench.server.files("blobs").len(), 2);
}
