//! A real server: the built program, on a free port, with its data in a folder that goes.

#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses a part"
)]

pub mod bench;
pub mod browser;
pub mod guest;
pub mod images;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

/// A server that runs.
pub struct Server {
    pub address: String,
    pub token: String,
    pub data: PathBuf,
    flags: Vec<String>,
    child: Child,
    output: BufReader<ChildStdout>,
    _folder: TempDir,
    agent: Agent,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more flags.
    pub fn with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (mut child, mut output) = spawn(&data, &flags);
        let (token, address) = greeting(&mut output, &mut child);
        Self {
            address,
            token: token.expect("a first token"),
            data,
            flags,
            child,
            output,
            _folder: folder,
            agent: agent(),
        }
    }

    /// On a port that stays the same when it starts again.
    pub fn on_a_fixed_port() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        Self::with(&["--port", &port])
    }

    /// Ends it as a power failure would, and starts it again on the same data.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it on data whose records are gone.
    pub fn start_anew(&mut self) {
        let (mut child, mut output) = spawn(&self.data, &self.flags);
        let (token, address) = greeting(&mut output, &mut child);
        self.token = token.expect("a first token");
        self.address = address;
        self.child = child;
        self.output = output;
    }

    pub fn restart(&mut self) {
        let (mut child, mut output) = spawn(&self.data, &self.flags);
        let (token, address) = greeting(&mut output, &mut child);
        assert_eq!(token, None, "a token is shown at the first start alone");
        self.address = address;
        self.child = child;
        self.output = output;
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// The next line that it prints after its address.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// As the owner of the first token.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let token = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", token.as_str())];
        all.extend(headers);
        self.plain(method, path, &all, body)
    }

    /// The same; nothing where the server is gone, or goes meanwhile.
    pub fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let token = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", token.as_str())];
        all.extend(headers);
        self.answered(method, path, &all, body).ok()
    }

    /// Without a token.
    pub fn plain(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.answered(method, path, headers, body).unwrap()
    }

    fn answered(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = match body.is_empty() && ["GET", "HEAD", "DELETE"].contains(&method) {
            true => self.agent.run(request.body(()).unwrap()),
            false => self.agent.run(request.body(body).unwrap()),
        };
        let mut answer = answer?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let body = answer.body_mut().with_config().limit(16 << 30);
        Ok(Answer {
            status,
            headers,
            bytes: body.read_to_vec()?,
        })
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], &[])
    }

    pub fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let kind = [("content-type", "application/json")];
        self.call(method, path, &kind, body.to_string().as_bytes())
    }

    /// Asks for an image until it is in a state that stays.
    pub fn settled(&self, id: &str) -> Value {
        self.until(&format!("/api/v1/images/{id}"), |image| {
            ["ready", "failed", "expired"].contains(&image["state"].as_str().unwrap_or(""))
        })
    }

    pub fn until(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.get(path);
            let value = answer.value();
            if answer.status == 200 && done(&value) {
                return value;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{value:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until there is no file below a folder of the data: what has failed is recorded first, and then removed.
    pub fn until_empty(&self, below: &str) {
        let start = Instant::now();
        while !self.files(below).is_empty() {
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{:?}",
                self.files(below)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the sockets of its machines are: a folder that is named by a digest, outside of its data.
    pub fn sockets(&self) -> PathBuf {
        let digest = Sha256::digest(self.data.join("overlays").as_os_str().as_encoded_bytes());
        let name: String = { digest[..6].iter() }
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let base = match nix::unistd::Uid::effective().is_root() {
            true => PathBuf::from("/run"),
            false => std::env::var_os("XDG_RUNTIME_DIR")
                .filter(|folder| !folder.is_empty())
                .map_or_else(std::env::temp_dir, PathBuf::from),
        };
        base.join(format!("diskette-{name}"))
    }

    /// Files below a folder of the data, but for the records.
    pub fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.data.join(below), &mut found);
        found.sort();
        found
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // No other server will ever have this data, and tidy up after the machines.
        let _ = std::fs::remove_dir_all(self.sockets());
    }
}

impl Answer {
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The value, of an answer with this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.value()
    }

    /// That it is refused with this code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        let value = self.expect(status);
        assert_eq!(value["code"], code, "{value:#}");
        for part in ["hint", "request_id"] {
            assert!(!value[part].as_str().unwrap().is_empty(), "{value:#}");
        }
        value
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false);
    config
        .max_redirects(0)
        .max_idle_connections(0)
        .allow_non_standard_methods(true)
        .build()
        .into()
}

fn spawn(data: &Path, flags: &Vec<String>) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_diskette-service"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .args(flags)
        .env("DISKETTE_MIN_FREE", "0")
        .env_remove("PORT")
        .stdout(Stdio::piped())
        .stderr(match std::env::var_os("DISKETTE_TEST_LOG") {
            Some(_) => Stdio::inherit(),
            None => Stdio::null(),
        })
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

fn greeting(output: &mut BufReader<ChildStdout>, child: &mut Child) -> (Option<String>, String) {
    let mut token = None;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).unwrap() == 0 {
            panic!("the server ended: {:?}", child.wait());
        }
        let line = line.trim();
        if line.starts_with("dsk_") {
            token = Some(line.to_owned());
        }
        if let Some(address) = line.strip_prefix("diskette-service listens on ") {
            return (token, address.to_owned());
        }
    }
}
