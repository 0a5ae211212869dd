//! Nodes of a real server: made, started, spoken with, kept, ended; found again after the server was killed.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::bench::{Bench, console, hear, kill, machine_of, told, type_in};
use serde_json::{Value, json};
use tungstenite::Message;

#[test]
fn a_node_boots_and_is_typed_to_and_its_image_stays_as_it_was() {
    let Some(bench) = Bench::new() else { return };
    let before = std::fs::read(bench.blob()).unwrap();
    let node = bench.node("one", true);
    let mut first = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut first, "SMALL GUEST READY");
    type_in(&mut first, "hello");
    hear(&mut first, "hello");
    // A break is a letter of zeros to the guest's serial port.
    first
        .send(Message::Text(json!({"break": true}).to_string().into()))
        .unwrap();
    hear(&mut first, "\0");

    let suggested = bench
        .server
        .get("/api/v1/images/router/machine")
        .expect(200);
    assert_eq!(suggested["preset"], "router");
    let path = format!("/api/v1/images/{}", bench.image);
    let properties = json!({"properties": {"hw_disk_bus": "scsi"}});
    bench.server.json("PATCH", &path, &properties).expect(200);
    let suggested = bench.server.get(&format!("{path}/machine?preset=windows"));
    let machine = &suggested.expect(200)["machine"];
    assert_eq!(
        (&machine["memory_mib"], &machine["disk_bus"]),
        (&json!(4096), &json!("scsi"))
    );
    let refused = bench.server.get(&format!("{path}/machine?preset=toaster"));
    refused.refused(400, "BAD_REQUEST");

    // Who comes late sees the past; who writes is one alone, until another takes it.
    let mut second = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut second, "SMALL GUEST READY");
    let keyboard = |writer: bool, free: bool| json!({"writer": writer, "free": free});
    assert_eq!(told(&mut second), keyboard(false, false));
    type_in(&mut second, "ignored");
    second
        .send(Message::Text(json!({"take": true}).to_string().into()))
        .unwrap();
    assert_eq!(told(&mut second), keyboard(true, false));
    type_in(&mut second, "mine");
    let heard = hear(&mut first, "mine");
    assert_eq!(heard, [keyboard(false, false)]);

    // When that one leaves, whoever types next writes.
    second.close(None).unwrap();
    assert_eq!(told(&mut first), keyboard(false, true));
    let mut third = console(&bench.server, &bench.ticket(&node, "serial", true), None).unwrap();
    hear(&mut third, "mine");
    type_in(&mut third, "nothing");
    type_in(&mut first, "again");
    hear(&mut third, "again");
    assert_eq!(told(&mut first), keyboard(true, false));

    let path = format!("/api/v1/nodes/{node}");
    let log = bench
        .server
        .get(&format!("{path}/console/log?tail=1000"))
        .text();
    assert!(
        log.contains("SMALL GUEST READY") && !log.contains("ignored") && !log.contains("nothing"),
        "{log}"
    );
    let png = bench.server.get(&format!("{path}/screenshot"));
    assert_eq!(&png.bytes[1..4], b"PNG");
    let command = bench.server.get(&format!("{path}/command")).expect(200);
    assert_eq!(command["files"][0], bench.blob().to_str().unwrap());

    let image = format!("/api/v1/images/{}", bench.image);
    bench
        .server
        .call("DELETE", &image, &[], &[])
        .refused(409, "IN_USE");
    assert_eq!(bench.step(&node, "start").status, 409);
    bench.step(&node, "stop").expect(200);
    bench.until(&node, "stopped");
    assert!(
        console(
            &bench.server,
            &format!("{path}/console/serial?ticket=old"),
            None
        )
        .is_err()
    );
    assert_eq!(bench.server.call("DELETE", &path, &[], &[]).status, 204);
    assert_eq!(std::fs::read(bench.blob()).unwrap(), before);
    assert!(bench.server.files("overlays").is_empty());
    assert_eq!(bench.server.call("DELETE", &image, &[], &[]).status, 204);
}

#[test]
fn a_node_is_found_again_by_the_next_run_of_the_service() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = bench.node("survivor", true);
    let mut socket = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut socket, "SMALL GUEST READY");
    bench.server.kill_and_restart();
    bench.until(&node, "running");
    let mut socket = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut socket, "SMALL GUEST READY");
    type_in(&mut socket, "still here");
    hear(&mut socket, "still here");

    // A machine that ends while nobody looks is told from one that was stopped.
    let sockets = machine_of(&node);
    bench.server.kill();
    kill(sockets);
    bench.server.restart();
    let crashed = bench.until(&node, "crashed");
    assert_eq!(crashed["reason"], "QEMU ended while the service was away");
    bench.step(&node, "start").expect(200);
    kill(machine_of(&node));
    let crashed = bench.until(&node, "crashed");
    assert!(
        crashed["reason"]
            .as_str()
            .unwrap()
            .starts_with("QEMU ended"),
        "{crashed}"
    );
}

#[test]
fn snapshots_are_taken_and_restored_with_and_without_memory() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node("kept", false);
    let snapshots = format!("/api/v1/nodes/{node}/snapshots");
    let take = |name: &str| {
        bench
            .server
            .json("POST", &snapshots, &json!({"name": name}))
    };
    take("cold").expect(201);
    take("cold").refused(409, "NAME_TAKEN");
    take("../odd").refused(400, "BAD_REQUEST");
    bench.step(&node, "start").expect(200);
    let mut socket = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut socket, "SMALL GUEST READY");
    let all = take("warm").expect(201);
    assert_eq!(all[0]["with_memory"], false);
    assert_eq!(all[1]["with_memory"], true);
    bench.step(&node, "pause").expect(200);
    bench.until(&node, "paused");
    bench.step(&node, "resume").expect(200);
    bench.until(&node, "running");
    let restore = |name: &str| {
        bench
            .server
            .json("POST", &format!("{snapshots}/{name}/restore"), &json!({}))
    };
    restore("warm").expect(200);
    restore("cold").refused(400, "BAD_REQUEST");
    restore("none").refused(404, "NOT_FOUND");
    bench.step(&node, "stop").expect(200);
    bench.until(&node, "stopped");
    restore("cold").expect(200);
    assert_eq!(
        bench
            .server
            .call("DELETE", &format!("{snapshots}/warm"), &[], &[])
            .status,
        204
    );
    assert_eq!(
        bench
            .server
            .get(&snapshots)
            .expect(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    bench.step(&node, "wipe").expect(200);
    assert_eq!(bench.server.get(&snapshots).expect(200), json!([]));
}

#[test]
fn a_console_wants_its_ticket_and_its_own_page() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node("guarded", true);
    let path = bench.ticket(&node, "serial", false);
    assert_eq!(
        console(&bench.server, &path, Some("http://evil.example")).unwrap_err(),
        403
    );
    let own = bench.server.address.clone();
    assert!(console(&bench.server, &path, Some(&own)).is_ok());
    assert_eq!(
        console(&bench.server, &path, None).unwrap_err(),
        403,
        "a ticket is good once"
    );
    let vnc = bench.ticket(&node, "vnc", true);
    let as_serial = vnc.replace("/vnc?", "/serial?");
    assert_eq!(console(&bench.server, &as_serial, None).unwrap_err(), 403);
    let vnc = bench.ticket(&node, "vnc", true);
    let mut screen = console(&bench.server, &vnc, None).unwrap();
    let greeting = screen.read().unwrap().into_data();
    assert!(greeting.starts_with(b"RFB 003."), "{greeting:?}");
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let make = |change: Value| {
        let mut new = json!({"name": "n", "image": bench.image, "preset": "router"});
        for (name, value) in change.as_object().unwrap() {
            new[name] = value.clone();
        }
        bench.server.json("POST", "/api/v1/nodes", &new)
    };
    for name in ["", "../x", "a b", &"x".repeat(4096), "a\u{0}b"] {
        make(json!({"name": name})).refused(400, "BAD_REQUEST");
    }
    make(json!({"image": "/etc/passwd"})).refused(404, "NOT_FOUND");
    make(json!({"machine": {"cpus": 0}})).refused(400, "BAD_REQUEST");
    make(json!({"machine": {"extra": "-device x"}})).refused(400, "BAD_REQUEST");
    make(json!({"machine": {"cpu_model": "max -device x"}})).refused(400, "BAD_REQUEST");
    make(json!({"disk_size": 512})).refused(400, "BAD_REQUEST");
    make(json!({"cloud_init": {"user_data": "hello"}})).refused(400, "BAD_REQUEST");
    assert!(bench.server.files("overlays").is_empty());

    // The stored file exchanged by hand: told before a machine has it.
    let node = bench.node("robbed", false);
    let blob = bench.blob();
    let size = std::fs::metadata(&blob).unwrap().len();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, vec![0; usize::try_from(size).unwrap()]).unwrap();
    bench.step(&node, "start").refused(422, "CORRUPT");
    make(json!({"name": "late"})).refused(422, "CORRUPT");
    let overlays = bench.server.files("overlays");
    bench.step(&node, "wipe").refused(422, "CORRUPT");
    assert_eq!(bench.server.files("overlays"), overlays);
}

#[test]
fn a_node_is_not_changed_by_who_has_not_seen_the_last() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node("one", false);
    let path = format!("/api/v1/nodes/{node}");
    let seen = bench.server.get(&path).header("etag").to_owned();
    assert_eq!(seen, "\"1\"");
    let change = |tag: &str, change: Value| {
        let headers = [("if-match", tag), ("content-type", "application/json")];
        let body = change.to_string();
        bench.server.call("PATCH", &path, &headers, body.as_bytes())
    };
    let changed = change(&seen, json!({"machine": {"memory_mib": 48}}));
    assert_eq!(changed.header("etag"), "\"2\"");
    let changed = changed.expect(200);
    assert_eq!(changed["machine"]["memory_mib"], 48);
    assert_eq!(changed["revision"], 2);
    change(&seen, json!({"machine": {"memory_mib": 64}})).refused(412, "PRECONDITION_FAILED");
    let headers = [("if-match", seen.as_str())];
    let refused = bench.server.call("DELETE", &path, &headers, &[]);
    refused.refused(412, "PRECONDITION_FAILED");
    // A reset needs a machine that runs; one that is started is reset, and greets again.
    bench.step(&node, "reset").refused(410, "CONSOLE_GONE");
    bench.step(&node, "start").expect(200);
    let mut guest = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut guest, "SMALL GUEST READY");
    bench.step(&node, "reset").expect(200);
    hear(&mut guest, "SMALL GUEST READY");
    let headers = [("if-match", "*")];
    let gone = bench.server.call("DELETE", &path, &headers, &[]);
    assert_eq!(gone.status, 204);
}
