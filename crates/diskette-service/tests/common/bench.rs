//! A real server with nodes of the small guest, and consoles to talk with them.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diskette_testkit::tools::Tool;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use super::{Answer, Server, guest};

/// A server with an image of the small guest.
pub struct Bench {
    pub server: Server,
    pub image: String,
}

impl Bench {
    /// A server with an image of the guest; `None` where there is no QEMU.
    pub fn new() -> Option<Self> {
        Tool::find("qemu-system-x86_64")?;
        let server = Server::start();
        let new = json!({"name": "router"});
        let made = server.json("POST", "/api/v1/images", &new).expect(201);
        let image = made["id"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/images/{image}/file");
        server
            .call("PUT", &path, &[], &guest::boot_sector())
            .expect(200);
        assert_eq!(server.settled(&image)["state"], "ready");
        Some(Self { server, image })
    }

    pub fn node(&self, name: &str, start: bool) -> String {
        let new = json!({
            "name": name, "image": "router", "preset": "router", "start": start,
            "machine": {"memory_mib": 32, "hw_video_model": "vga"},
        });
        let node = self.server.json("POST", "/api/v1/nodes", &new).expect(201);
        node["id"].as_str().unwrap().to_owned()
    }

    pub fn step(&self, node: &str, step: &str) -> Answer {
        self.server
            .json("POST", &format!("/api/v1/nodes/{node}/{step}"), &json!({}))
    }

    pub fn until(&self, node: &str, state: &str) -> Value {
        self.server.until(&format!("/api/v1/nodes/{node}"), |node| {
            node["state"] == state
        })
    }

    pub fn ticket(&self, node: &str, kind: &str, view_only: bool) -> String {
        let path = format!("/api/v1/nodes/{node}/console-ticket");
        let wanted = json!({"kind": kind, "view_only": view_only});
        let issued = self.server.json("POST", &path, &wanted).expect(201);
        issued["path"].as_str().unwrap().to_owned()
    }

    pub fn blob(&self) -> PathBuf {
        let mut blobs = self.server.files("blobs");
        blobs.retain(|path| path.extension().is_none());
        assert_eq!(blobs.len(), 1);
        blobs.remove(0)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        end_machines(&self.server);
    }
}

/// Removes all nodes: machines outlive a server, and must not outlive the test.
pub fn end_machines(server: &Server) {
    let all = server.get("/api/v1/nodes").value();
    for node in all.as_array().into_iter().flatten() {
        let path = format!("/api/v1/nodes/{}", node["id"].as_str().unwrap_or_default());
        server.call("DELETE", &path, &[], &[]);
    }
}

pub type Socket = WebSocket<TcpStream>;

/// Opens a console; an error has the status.
pub fn console(server: &Server, path: &str, origin: Option<&str>) -> Result<Socket, u16> {
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
pub fn hear(socket: &mut Socket, text: &str) -> Vec<Value> {
    hear_within(socket, text, Duration::from_secs(60))
}

/// The same, of a guest that needs its time.
pub fn hear_within(socket: &mut Socket, text: &str, patience: Duration) -> Vec<Value> {
    let each = Some(patience);
    socket.get_ref().set_read_timeout(each).unwrap();
    let (mut said, mut told) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while !String::from_utf8_lossy(&said).contains(text) {
        assert!(
            start.elapsed() < patience,
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

pub fn told(socket: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

pub fn type_in(socket: &mut Socket, text: &str) {
    socket
        .send(Message::Binary(text.as_bytes().to_vec().into()))
        .unwrap();
}

/// The process of a node's QEMU.
pub fn machine_of(node: &str) -> u32 {
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

pub fn kill(process: u32) {
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
