//! A service that is killed at any moment of what it does: nothing that was ready is lost, and nothing is left behind.
//!
//! Clients upload, convert, delete, and run machines; at a moment that a seed tells the service is killed (SIGKILL), started
//! again, and looked at. `DISKETTE_KILLS` says how often (12), `DISKETTE_KILLS_SEED` another seed.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use common::bench::{Bench as NodeBench, end_machines};
use common::guest::boot_sector;
use common::{Answer, Server};
use diskette_testkit::tools::Tool;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const KIND: (&str, &str) = ("content-type", "application/offset+octet-stream");
const MIB: usize = 1 << 20;

#[test]
fn whatever_moment_the_service_is_killed_at_nothing_is_lost_and_nothing_left() {
    let kills = number("DISKETTE_KILLS").unwrap_or(12);
    let seed = number("DISKETTE_KILLS_SEED").unwrap_or(20_261_121);
    eprintln!("{kills} kills, seed {seed}");
    let machines = Tool::find("qemu-system-x86_64").is_some();
    let mut bench = Bench::new(machines);
    let start = Instant::now();
    for round in 0..kills {
        let told = bench.round(seed.wrapping_mul(1000).wrapping_add(round));
        eprintln!("{round:3} {:5.1} s: {told}", start.elapsed().as_secs_f32());
    }
    bench.clear();
    eprintln!("{}", bench.counts());
}

#[test]
fn a_client_that_goes_away_leaves_no_machine_half_started() {
    let Some(bench) = NodeBench::new() else {
        return;
    };
    let host = bench.server.address.strip_prefix("http://").unwrap();
    for wait in [0, 5, 20, 50, 100] {
        let node = bench.node(&format!("left{wait}"), false);
        let mut client = TcpStream::connect(host).unwrap();
        let token = &bench.server.token;
        let request = format!(
            "POST /api/v1/nodes/{node}/start HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        client.write_all(request.as_bytes()).unwrap();
        sleep(Duration::from_millis(wait));
        drop(client);
        // It may never have been heard, or only after a while.
        sleep(Duration::from_millis(300));
        until("node that is whole, or not there", || {
            let now = bench.server.get(&format!("/api/v1/nodes/{node}")).value();
            let state = now["state"].as_str().unwrap();
            let expected = usize::from(state == "running");
            state != "starting" && machines_with(&node).len() == expected
        });
    }
}

#[test]
fn a_service_that_is_killed_while_it_judges_accelerators_leaves_no_machine() {
    let Some(mut bench) = NodeBench::new() else {
        return;
    };
    let pid = bench.server.pid();
    scope(|scope| {
        scope.spawn(|| {
            bench
                .server
                .try_call("GET", "/api/v1/accelerators", &[], &[])
        });
        until("probe", || !probes_of(pid).is_empty());
        kill(pid);
    });
    until("end of it", || probes_of(pid).is_empty());
    bench.server.kill_and_restart();
}

/// Waits for something that comes soon.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "no {what}");
        sleep(Duration::from_millis(2));
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Numbers that a seed tells.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A raw disk: parts that compress, parts that do not, holes.
    fn disk(&mut self) -> Vec<u8> {
        let size = MIB + usize::try_from(self.below(12)).unwrap() * MIB / 2;
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            match self.below(3) {
                0 => bytes.resize(bytes.len() + 64 * 1024, 0),
                1 => bytes.extend(std::iter::repeat_n(self.next().to_le_bytes(), 8192).flatten()),
                _ => (0..8192).for_each(|_| bytes.extend(self.next().to_le_bytes())),
            }
        }
        bytes.truncate(size);
        bytes
    }
}

/// An upload that has not ended.
struct Upload {
    path: String,
    bytes: Vec<u8>,
}

/// What the clients know.
#[derive(Default)]
struct Known {
    /// Images that were ready, with the digest of their disks.
    ready: BTreeMap<String, String>,
    /// Uploads that were begun.
    uploads: Vec<Upload>,
    /// Disks that were sent at once, by the names of their images: they may be there.
    perhaps: BTreeMap<String, String>,
    /// Images whose removal was asked for: they may be gone.
    removed: BTreeSet<String>,
    /// Nodes that were told to run, and not touched since; with their processes.
    running: BTreeMap<String, u32>,
}

struct Bench {
    server: Server,
    known: Mutex<Known>,
    machines: bool,
    names: AtomicU64,
    asked: AtomicU64,
    resumed: u64,
    readopted: u64,
    verified: u64,
}

impl Bench {
    fn new(machines: bool) -> Self {
        let server = Server::start();
        let bench = Self {
            server,
            known: Mutex::default(),
            machines,
            names: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            resumed: 0,
            readopted: 0,
            verified: 0,
        };
        let image = bench.put("guest", &boot_sector()).expect("a first image");
        let digest = sha256(&boot_sector());
        bench.known().ready.insert(image, digest);
        bench
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// Has clients at work, kills the service under them, and looks what it is after its next start.
    fn round(&mut self, seed: u64) -> String {
        let mut dice = Dice(seed);
        let pid = self.server.pid();
        if dice.below(4) == 0 {
            // The accelerators are judged again.
            let _ = std::fs::remove_file(self.server.data.join("accelerators.json"));
        }
        let moment = Duration::from_millis(20 + dice.below(1500));
        let workers: &[fn(&Self, &mut Dice) -> Option<()>] = match self.machines {
            true => &[
                Self::sends,
                Self::sends,
                Self::sends_at_once,
                Self::rewrites,
                Self::runs,
            ],
            false => &[Self::sends, Self::sends_at_once, Self::rewrites],
        };
        let bench = &*self;
        scope(|scope| {
            for worker in workers {
                let mut dice = Dice(dice.next());
                scope.spawn(move || while worker(bench, &mut dice).is_some() {});
            }
            sleep(moment);
            kill(pid);
        });
        self.server.kill_and_restart();
        until("end of a probe", || probes_of(pid).is_empty());
        let finishes = dice.below(3) == 0;
        self.look(finishes);
        format!("killed after {} ms; {}", moment.as_millis(), self.counts())
    }

    fn counts(&self) -> String {
        let known = self.known();
        format!(
            "{} requests, {} images ready, {} uploads open, {} gone on with, {} machines found again, {} digests right",
            self.asked.load(Ordering::Relaxed),
            known.ready.len(),
            known.uploads.len(),
            self.resumed,
            self.readopted,
            self.verified,
        )
    }

    /// All machines of this service: the folder of their sockets is on their command lines.
    fn machines(&self) -> Vec<u32> {
        machines_with(&format!("{}/", self.server.sockets().display()))
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.server.try_call(method, path, headers, body)?;
        assert!(answer.status < 500, "{method} {path}: {}", answer.text());
        Some(answer)
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        let kind = [("content-type", "application/json")];
        self.call(method, path, &kind, body.to_string().as_bytes())
    }

    /// Sends a disk whole; gives its image.
    fn put(&self, name: &str, bytes: &[u8]) -> Option<String> {
        self.known().perhaps.insert(name.to_owned(), sha256(bytes));
        let made = self.json("POST", "/api/v1/images", &json!({"name": name}))?;
        let image = made.expect(201)["id"].as_str()?.to_owned();
        let sent = self.call("PUT", &format!("/api/v1/images/{image}/file"), &[], bytes)?;
        assert_eq!(sent.expect(200)["guest_sha256"], sha256(bytes));
        Some(image)
    }

    fn sends_at_once(&self, dice: &mut Dice) -> Option<()> {
        let bytes = dice.disk();
        let image = self.put(&self.name("once"), &bytes)?;
        self.known().ready.insert(image, sha256(&bytes));
        Some(())
    }

    /// Goes on with an upload, or begins one; in pieces.
    fn sends(&self, dice: &mut Dice) -> Option<()> {
        let open = self.known().uploads.pop();
        let upload = match open {
            Some(upload) => upload,
            None => {
                let bytes = dice.disk();
                let length = bytes.len().to_string();
                let made = self.call(
                    "POST",
                    "/api/v1/uploads",
                    &[TUS, ("upload-length", &length)],
                    &[],
                )?;
                assert_eq!(made.status, 201, "{}", made.text());
                let path = made.header("location").to_owned();
                Upload { path, bytes }
            }
        };
        if self.sent(&upload, dice).is_none() {
            self.known().uploads.push(upload);
            return None;
        }
        Some(())
    }

    /// Sends the rest; the image is known to be ready then.
    fn sent(&self, upload: &Upload, dice: &mut Dice) -> Option<()> {
        let head = self.call("HEAD", &upload.path, &[TUS], &[])?;
        assert_eq!(head.status, 200, "{}", upload.path);
        let mut offset: usize = head.header("upload-offset").parse().unwrap();
        assert!(offset <= upload.bytes.len());
        while offset < upload.bytes.len() {
            let len = usize::try_from(1 + dice.below(MIB as u64)).unwrap();
            let end = (offset + len).min(upload.bytes.len());
            let at = offset.to_string();
            let headers = [TUS, KIND, ("upload-offset", &at)];
            let answer = self.call("PATCH", &upload.path, &headers, &upload.bytes[offset..end])?;
            assert_eq!(answer.status, 204, "{}", answer.text());
            offset = end;
        }
        let image = upload.path.rsplit('/').next().unwrap();
        let settled = self.settled(image)?;
        assert_eq!(settled["state"], "ready", "{settled:#}");
        let digest = sha256(&upload.bytes);
        assert_eq!(settled["guest_sha256"], digest);
        self.known().ready.insert(image.to_owned(), digest);
        Some(())
    }

    fn settled(&self, image: &str) -> Option<Value> {
        let start = Instant::now();
        loop {
            let found = self.call("GET", &format!("/api/v1/images/{image}"), &[], &[])?;
            let found = found.expect(200);
            if ["ready", "failed", "expired"].contains(&found["state"].as_str()?) {
                return Some(found);
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{found:#}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Rewrites an image, or removes one.
    fn rewrites(&self, dice: &mut Dice) -> Option<()> {
        sleep(Duration::from_millis(dice.below(100)));
        let all: Vec<_> = {
            let known = self.known();
            let others = known.ready.iter();
            others
                .map(|(id, digest)| (id.clone(), digest.clone()))
                .collect()
        };
        let (image, digest) = all[usize::try_from(dice.below(all.len() as u64)).unwrap()].clone();
        if digest == sha256(&boot_sector()) {
            return self
                .call("GET", &format!("/api/v1/images/{image}"), &[], &[])
                .map(drop);
        }
        let path = format!("/api/v1/images/{image}");
        if all.len() > 8 {
            {
                let mut known = self.known();
                known.ready.remove(&image);
                known.removed.insert(image);
            }
            let gone = self.call("DELETE", &path, &[], &[])?;
            assert_eq!(gone.status, 204, "{}", gone.text());
            return Some(());
        }
        let (action, wanted) = match dice.below(3) {
            0 => ("compact", json!({"compress": "zstd"})),
            1 => ("compact", json!({})),
            _ => ("verify", json!({})),
        };
        let begun = self.json("POST", &format!("{path}/actions/{action}"), &wanted)?;
        let operation = begun.expect(202)["id"].as_str()?.to_owned();
        loop {
            let now = self.call("GET", &format!("/api/v1/operations/{operation}"), &[], &[])?;
            let now = now.expect(200);
            match now["state"].as_str()? {
                "running" => sleep(Duration::from_millis(20)),
                "done" => {
                    if let Some(new) = now["result"]["image"].as_str() {
                        self.known().ready.insert(new.to_owned(), digest);
                    }
                    return Some(());
                }
                _ => panic!("{now:#}"),
            }
        }
    }

    /// Does something with a node.
    fn runs(&self, dice: &mut Dice) -> Option<()> {
        sleep(Duration::from_millis(dice.below(100)));
        let all = self.call("GET", "/api/v1/nodes", &[], &[])?.expect(200);
        let all = all.as_array()?;
        if all.len() < 3 {
            let new = json!({
                "name": self.name("node"), "image": "guest", "preset": "router", "start": dice.below(4) > 0,
                "machine": {"memory_mib": 32, "hw_video_model": "none"},
            });
            let made = self.json("POST", "/api/v1/nodes", &new)?.expect(201);
            self.watch(&made);
            return Some(());
        }
        let node = &all[usize::try_from(dice.below(3)).unwrap()];
        let id = node["id"].as_str()?;
        let path = format!("/api/v1/nodes/{id}");
        self.known().running.remove(id);
        let step = match (node["state"].as_str()?, dice.below(6)) {
            (_, 0) => {
                let gone = self.call("DELETE", &path, &[], &[])?;
                assert_eq!(gone.status, 204, "{}", gone.text());
                return Some(());
            }
            ("running" | "paused", 1) => {
                let taken = self.json(
                    "POST",
                    &format!("{path}/snapshots"),
                    &json!({"name": self.name("s")}),
                )?;
                assert_eq!(taken.status, 201, "{}", taken.text());
                return Some(());
            }
            ("running", 2 | 3) => "pause",
            ("paused", 2 | 3) => "resume",
            ("running" | "paused", _) => "stop",
            (_, 1) => "wipe",
            _ => "start",
        };
        let done = self.json("POST", &format!("{path}/{step}"), &json!({}))?;
        // What it was may have changed meanwhile.
        assert!(
            [200, 409, 410].contains(&done.status),
            "{step}: {}",
            done.text()
        );
        self.watch(&done.value());
        Some(())
    }

    /// From now on a machine is expected to be there.
    fn watch(&self, node: &Value) {
        if let (Some(id), Some("running")) = (node["id"].as_str(), node["state"].as_str())
            && let [process] = machines_with(id)[..]
        {
            self.known().running.insert(id.to_owned(), process);
        }
    }

    /// What a start has made of all that was under way.
    fn look(&mut self, finishes: bool) {
        let uploads = std::mem::take(&mut self.known().uploads);
        if finishes {
            for upload in &uploads {
                self.sent(upload, &mut Dice(1))
                    .expect("the server is there");
                self.resumed += 1;
            }
        } else {
            self.known().uploads = uploads;
        }
        self.look_at_images();
        self.look_at_nodes();
        self.look_at_files();
        self.look_at_records();
    }

    fn look_at_images(&mut self) {
        let open: HashSet<String> = self
            .known()
            .uploads
            .iter()
            .map(|upload| upload.path.clone())
            .collect();
        let is_open = |id: &str| open.contains(&format!("/api/v1/uploads/{id}"));
        let page = self
            .server
            .get("/api/v1/images?limit=1000&versions=true")
            .expect(200);
        let mut there = BTreeMap::new();
        for image in page["items"].as_array().unwrap() {
            let id = image["id"].as_str().unwrap();
            if is_open(id) {
                continue;
            }
            let image = match image["state"].as_str().unwrap() {
                // Announced, and never sent; an upload whose answer never came, or of which nobody knows.
                "queued" | "receiving" => {
                    self.server
                        .call("DELETE", &format!("/api/v1/images/{id}"), &[], &[]);
                    continue;
                }
                _ => self.settled(id).unwrap(),
            };
            let name = image["name"].as_str().unwrap();
            let perhaps = self.known().perhaps.get(name).cloned();
            match (image["state"].as_str().unwrap(), perhaps) {
                ("ready", Some(digest)) => {
                    // A rewritten version, or one of which the client has never heard that it was ready.
                    assert_eq!(image["guest_sha256"], digest, "{image:#}");
                    self.known().ready.insert(id.to_owned(), digest);
                }
                ("ready", None) => {
                    assert!(self.knows(&image), "{image:#}");
                    let digest = image["guest_sha256"].as_str().unwrap().to_owned();
                    self.known().ready.insert(id.to_owned(), digest);
                }
                ("failed", _) => {
                    let code = image["problem"]["code"].as_str().unwrap();
                    assert!(
                        ["TRUNCATED", "CANCELLED", "INTERRUPTED"].contains(&code),
                        "{image:#}"
                    );
                    self.server
                        .call("DELETE", &format!("/api/v1/images/{id}"), &[], &[]);
                    continue;
                }
                (state, _) => panic!("{state}: {image:#}"),
            }
            there.insert(id.to_owned(), image);
        }
        let known = self.known();
        for (id, digest) in &known.ready {
            let image = there.get(id).unwrap_or_else(|| panic!("{id} is lost"));
            assert_eq!(image["guest_sha256"], *digest);
        }
        drop(known);
        self.known().removed.clear();
        self.verified += there.len() as u64;
    }

    /// Whether an image is a version of one that the clients know, or had asked to be removed.
    fn knows(&self, image: &Value) -> bool {
        let known = self.known();
        let digest = image["guest_sha256"].as_str().unwrap();
        let id = image["id"].as_str().unwrap();
        known.removed.contains(id) || known.ready.values().any(|one| one == digest)
    }

    fn look_at_nodes(&mut self) {
        let all = self.server.get("/api/v1/nodes").expect(200);
        let mut with_machine = BTreeMap::new();
        for node in all.as_array().unwrap() {
            let id = node["id"].as_str().unwrap();
            match node["state"].as_str().unwrap() {
                "running" | "paused" => {
                    let machines = machines_with(id);
                    assert_eq!(machines.len(), 1, "{node:#}");
                    with_machine.insert(id.to_owned(), machines[0]);
                }
                "defined" | "stopped" | "crashed" => {
                    assert_eq!(machines_with(id), [0; 0], "{node:#}");
                    // Whatever it was in the middle of, it can be started.
                    let path = format!("/api/v1/nodes/{id}");
                    self.server
                        .json("POST", &format!("{path}/start"), &json!({}))
                        .expect(200);
                    self.server
                        .json("POST", &format!("{path}/stop"), &json!({}))
                        .expect(200);
                    self.server.until(&path, |node| node["state"] == "stopped");
                }
                state => panic!("{state} at rest: {node:#}"),
            }
        }
        let running = std::mem::take(&mut self.known().running);
        for (id, process) in &running {
            assert_eq!(
                with_machine.get(id),
                Some(process),
                "the machine of {id} has not survived"
            );
        }
        self.readopted += with_machine.len() as u64;
        self.known().running = running;
        let ours = self.machines();
        let ours: BTreeSet<_> = ours.into_iter().collect();
        let known: BTreeSet<_> = with_machine.into_values().collect();
        assert_eq!(ours, known, "machines that belong to no node");
    }

    fn look_at_files(&self) {
        let known = self.known();
        let open = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            known
                .uploads
                .iter()
                .any(|upload| name.starts_with(upload.path.rsplit('/').next().unwrap()))
        };
        for folder in ["spool", "staging"] {
            let mut left = self.server.files(folder);
            left.retain(|path| !open(path));
            assert_eq!(left, [] as [std::path::PathBuf; 0], "{folder}");
        }
        assert!(self.server.files("quarantine").is_empty());
        for path in self.server.files("blobs") {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.extension().is_none() {
                assert_eq!(
                    sha256(&std::fs::read(&path).unwrap()),
                    name,
                    "a blob is what its name says"
                );
            }
        }
        let nodes = self.server.get("/api/v1/nodes").expect(200);
        let nodes: BTreeSet<_> = nodes
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["id"].as_str().unwrap().to_owned())
            .collect();
        let folders = std::fs::read_dir(self.server.data.join("overlays"))
            .into_iter()
            .flatten();
        let folders: BTreeSet<_> = folders
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(folders, nodes, "folders of nodes");
    }

    fn look_at_records(&self) {
        let path = self.server.data.join("records.sqlite");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(path).read_only(true);
            let records = SqlitePool::connect_with(options).await.unwrap();
            let whole: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&records).await.unwrap();
            assert_eq!(whole, "ok");
            for (what, query) in [
                ("keys", "PRAGMA foreign_key_check"),
                ("blobs without an image", "SELECT sha256 FROM blobs WHERE sha256 NOT IN (SELECT blob FROM images WHERE blob IS NOT NULL)"),
                ("ready images without a blob", "SELECT id FROM images WHERE state = 'ready' AND blob IS NULL"),
                ("room that is set aside for nobody", "SELECT id FROM images WHERE state IN ('ready', 'failed') AND reserved <> 0"),
                ("uses by no node", "SELECT used_by FROM image_uses WHERE used_by NOT IN (SELECT 'node ' || name FROM nodes)"),
                ("nodes that use nothing", "SELECT id FROM nodes WHERE 'node ' || name NOT IN (SELECT used_by FROM image_uses)"),
                ("work that nobody does", "SELECT id FROM operations WHERE state = 'running'"),
                ("two current versions", "SELECT name FROM images WHERE current AND state = 'ready' GROUP BY project, name HAVING count(*) > 1"),
                ("names that stand for nothing", "SELECT name FROM images WHERE state = 'ready' GROUP BY project, name HAVING sum(current) = 0"),
            ] {
                let wrong = sqlx::query(query).fetch_all(&records).await.unwrap();
                let wrong: Vec<String> = wrong.iter().map(|row| row.try_get(0).unwrap_or_default()).collect();
                assert!(wrong.is_empty(), "{what}: {wrong:?}");
            }
            records.close().await;
        });
    }

    /// Ends and removes all; nothing is left then.
    fn clear(&mut self) {
        self.look(true);
        end_machines(&self.server);
        let page = self
            .server
            .get("/api/v1/images?limit=1000&versions=true")
            .expect(200);
        for image in page["items"].as_array().unwrap() {
            let path = format!("/api/v1/images/{}", image["id"].as_str().unwrap());
            assert_eq!(self.server.call("DELETE", &path, &[], &[]).status, 204);
        }
        for folder in ["spool", "staging", "blobs", "overlays"] {
            assert!(
                self.server.files(folder).is_empty(),
                "{folder}: {:?}",
                self.server.files(folder)
            );
        }
        assert_eq!(self.machines(), [0; 0]);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A test that has failed leaves no machines either.
        for process in self.machines() {
            kill(process);
        }
    }
}

/// The machines by which a service judges accelerators.
fn probes_of(service: u32) -> Vec<u32> {
    machines_with(&format!("diskette-probe-of-{service}\0"))
}

/// The machines on whose command lines `text` is.
fn machines_with(text: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let program = line.split('\0').next()?;
        (program.contains("qemu-system") && line.contains(text)).then_some(process)
    });
    processes.collect()
}

fn kill(process: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(status.unwrap().success());
}
