//! Nodes of a real server: made, started, spoken with, kept, ended; found again after the server was killed.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Server;
use diskette_testkit::tools::Tool;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// A guest of one sector: it says a line on its serial port, then echoes what is typed.
fn guest() -> Vec<u8> {
    let mut sector = vec![
        0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe, 0x28,
        0x7c, // no interrupts, ds = 0, si = the line
        0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // say it
        0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8, // wait for a letter
        0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xf1, // say it again
    ];
    sector.resize(0x28, 0x90);
    sector.extend(b"SMALL GUEST READY\r\n\0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    sector
}

struct Bench {
    server: Server,
    image: String,
}

impl Bench {
    /// A server with an image of the guest; `None` where there is no QEMU.
    fn new() -> Option<Self> {
        Tool::find("qemu-system-x86_64")?;
        let server = Server::start();
        let new = json!({"name": "router"});
        let made = server.json("POST", "/api/v1/images", &new).expect(201);
        let image = made["id"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/images/{image}/file");
        server.call("PUT", &path, &[], &guest()).expect(200);
        assert_eq!(server.settled(&image)["state"], "ready");
        Some(Self { server, image })
    }

    fn node(&self, name: &str, start: bool) -> String {
        let new = json!({
            "name": name, "image": "router", "preset": "router", "start": start,
            "machine": {"memory_mib": 32, "hw_video_model": "vga"},
        });
        let node = self.server.json("POST", "/api/v1/nodes", &new).expect(201);
        node["id"].as_str().unwrap().to_owned()
    }

    fn step(&self, node: &str, step: &str) -> common::Answer {
        self.server
            .json("POST", &format!("/api/v1/nodes/{node}/{step}"), &json!({}))
    }

    fn until(&self, node: &str, state: &str) -> Value {
        self.server.until(&format!("/api/v1/nodes/{node}"), |node| {
            node["state"] == state
        })
    }

    fn ticket(&self, node: &str, kind: &str, view_only: bool) -> String {
        let path = format!("/api/v1/nodes/{node}/console-ticket");
        let wanted = json!({"kind": kind, "view_only": view_only});
        let issued = self.server.json("POST", &path, &wanted).expect(201);
        issued["path"].as_str().unwrap().to_owned()
    }

    fn blob(&self) -> PathBuf {
        let mut blobs = self.server.files("blobs");
        blobs.retain(|path| path.extension().is_none());
        assert_eq!(blobs.len(), 1);
        blobs.remove(0)
    }
}

impl Drop for Bench {
    /// Machines outlive a server; they must not outlive the test.
    fn drop(&mut self) {
        for node in self
            .server
            .get("/api/v1/nodes")
            .value()
            .as_array()
            .into_iter()
            .flatten()
        {
            let path = format!("/api/v1/nodes/{}", node["id"].as_str().unwrap_or_default());
            self.server.call("DELETE", &path, &[], &[]);
        }
    }
}

type Socket = WebSocket<TcpStream>;

/// Opens a console; an error has the status.
fn console(server: &Server, path: &str, origin: Option<&str>) -> Result<Socket, u16> {
    let host = server.address.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{host}{path}").into_client_request().unwrap();
    if let Some(origin) = origin {
        request
            .headers_mut()
            .insert("origin", origin.parse().unwrap());
    }
    let stream = TcpStream::connect(host).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

/// Reads until a text has been said on the console; gives what the service told meanwhile.
fn hear(socket: &mut Socket, text: &str) -> Vec<Value> {
    let (mut said, mut told) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while !String::from_utf8_lossy(&said).contains(text) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{}",
            String::from_utf8_lossy(&said)
        );
        match socket.read().unwrap() {
            Message::Binary(bytes) => said.extend_from_slice(&bytes),
            Message::Text(text) => told.push(serde_json::from_str(&text).unwrap()),
            _ => {}
        }
    }
    told
}

fn told(socket: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn type_in(socket: &mut Socket, text: &str) {
    socket
        .send(Message::Binary(text.as_bytes().to_vec().into()))
        .unwrap();
}

#[test]
fn a_node_boots_and_is_typed_to_and_its_image_stays_as_it_was() {
    let Some(bench) = Bench::new() else { return };
    let before = std::fs::read(bench.blob()).unwrap();
    let node = bench.node("one", true);
    let mut first = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut first, "SMALL GUEST READY");
    type_in(&mut first, "hello");
    hear(&mut first, "hello");

    let suggested = bench
        .server
        .get("/api/v1/images/router/machine")
        .expect(200);
    assert_eq!(suggested["preset"], "router");

    // Who comes late sees the past; who writes is one alone, until another takes it.
    let mut second = console(&bench.server, &bench.ticket(&node, "serial", false), None).unwrap();
    hear(&mut second, "SMALL GUEST READY");
    assert_eq!(told(&mut second), json!({"writer": false}));
    type_in(&mut second, "ignored");
    second
        .send(Message::Text(json!({"take": true}).to_string().into()))
        .unwrap();
    assert_eq!(told(&mut second), json!({"writer": true}));
    type_in(&mut second, "mine");
    hear(&mut first, "mine");

    let path = format!("/api/v1/nodes/{node}");
    let log = bench
        .server
        .get(&format!("{path}/console/log?tail=1000"))
        .text();
    assert!(
        log.contains("SMALL GUEST READY") && !log.contains("ignored"),
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

/// The process of a node's QEMU.
fn machine_of(node: &str) -> u32 {
    let needle = format!("\0{node}\0");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line)
            .contains(&needle)
            .then_some(pid)
    });
    processes.last().unwrap()
}

fn kill(process: u32) {
    let done = std::process::Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(done.unwrap().success());
    while Path::new(&format!("/proc/{process}/cmdline")).exists()
        && !std::fs::read(format!("/proc/{process}/cmdline"))
            .unwrap_or_default()
            .is_empty()
    {
        std::thread::sleep(Duration::from_millis(10));
    }
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
}
