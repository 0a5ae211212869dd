//! The command's verbs, by the built program, against a real server.

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

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Server;
use common::bench::end_machines;
use common::guest::boot_sector;
use diskette_testkit::tools::Tool;
use mirror::{File, Mirror};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A user with a folder of their own, before a server.
struct User {
    server: Server,
    folder: TempDir,
}

impl Drop for User {
    fn drop(&mut self) {
        end_machines(&self.server);
    }
}

impl User {
    fn new() -> Self {
        Self::of(Server::start())
    }

    fn of(server: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server, folder }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diskette-service"));
        command
            .args(words)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("DISKETTE_SERVER", &self.server.address)
            .env("DISKETTE_TOKEN", &self.server.token)
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_CONFIG_HOME");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().unwrap()
    }

    /// What is printed, where it goes well.
    #[track_caller]
    fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.push("--json");
        serde_json::from_str(&self.says(&all)).unwrap()
    }

    /// The one line that is said where it does not.
    #[track_caller]
    fn fails(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        error.lines().last().unwrap_or_default().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        name.to_owned()
    }
}

/// A VMDK, whatever its name says.
fn router() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2");
    std::fs::read(path).unwrap()
}

/// A raw disk without a pattern that compresses.
fn disk(size: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn an_image_comes_in_is_looked_at_changed_and_goes_out_again() {
    let user = User::new();
    user.write("router.qcow2", &router());
    let added = user.json(&[
        "images",
        "add",
        "router.qcow2",
        "--tag",
        "lab",
        "--tag",
        "cisco",
        "--os",
        "ios",
        "--description",
        "of the lab",
    ]);
    assert_eq!(added["state"], "ready");
    assert_eq!(added["name"], "router");
    assert_eq!(added["tags"], json!(["lab", "cisco"]));
    assert_eq!(added["os"], "ios");
    assert_eq!(added["source"]["sha256"], sha256(&router()));

    let list = user.says(&["images", "list"]);
    assert!(list.starts_with("NAME "), "{list}");
    assert!(list.contains("router") && list.contains("vmdk"), "{list}");
    assert_eq!(user.json(&["images", "list", "--tag", "none"]), json!([]));
    let facts = user.says(&["images", "get", "router", "--report"]);
    assert!(facts.contains("came as:       vmdk"), "{facts}");

    let verified = user.says(&["images", "verify", "--all"]);
    assert!(verified.starts_with("router: sound, sha256 "), "{verified}");
    let said = user.says(&["images", "compact", "router", "--compress", "zstd"]);
    assert!(said.starts_with("router: version 2, "), "{said}");
    let resized = user.json(&["images", "resize", "router", "+1M"]);
    assert_eq!(resized["state"], "done");
    let versions = user.json(&["images", "list", "--versions"]);
    assert_eq!(versions.as_array().unwrap().len(), 3);

    let said = user.says(&["images", "download", "router", "--format", "vhdx"]);
    assert!(said.starts_with("router.vhdx: vhdx, "), "{said}");
    let said = user.says(&["detect", "router.vhdx", "router.qcow2"]);
    let mut lines = said.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("router.vhdx: vhdx, a disk of "),
        "{said}"
    );
    assert!(
        lines.next().unwrap().starts_with("router.qcow2: vmdk, "),
        "{said}"
    );
    let again = user.fails(&["images", "download", "router", "--format", "vhdx"], 1);
    assert!(
        again.ends_with("is there already; --force replaces it"),
        "{again}"
    );
    user.says(&["images", "download", "router", "-o", "stored.qcow2"]);
    let stored = user.json(&["images", "get", "router"]);
    assert_eq!(
        stored["sha256"],
        sha256(&std::fs::read(user.path("stored.qcow2")).unwrap())
    );
    assert!(!user.path("stored.qcow2.part").exists());

    user.says(&["images", "rm", "router"]);
    let gone = user.fails(
        &["images", "get", added["id"].as_str().unwrap(), "--json"],
        0,
    );
    assert_eq!(gone, "", "the versions before stay");
}

#[test]
fn what_is_refused_is_one_line_with_its_code_and_a_remedy() {
    let user = User::new();
    let none = user.fails(&["images", "get", "none"], 1);
    assert!(
        none.starts_with("diskette-service: ") && none.contains("(NOT_FOUND). "),
        "{none}"
    );
    user.write("empty.vmdk", b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/passwd\" 0\n");
    let refused = user.fails(&["images", "add", "empty.vmdk"], 1);
    assert!(refused.contains("(EXTENT_REFUSED). Send "), "{refused}");
    let wrong = user.fails(&["images", "add", "https://127.0.0.1/x.img"], 1);
    assert!(wrong.contains("(URL_REFUSED)"), "{wrong}");
    user.write("a.img", &disk(100_000));
    let digest = "0".repeat(64);
    let wrong = user.fails(&["images", "add", "a.img", "--sha256", &digest], 1);
    assert!(wrong.contains("(CHECKSUM_MISMATCH)"), "{wrong}");
    user.says(&[
        "images",
        "add",
        "a.img",
        "--sha256",
        &sha256(&disk(100_000)),
    ]);
    let taken = user.fails(&["images", "add", "a.img"], 1);
    assert!(taken.contains("(NAME_TAKEN)"), "{taken}");

    let mut stranger = user.command(&["images", "list"]);
    let output = stranger.env_remove("DISKETTE_TOKEN").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("(UNAUTHORIZED). Give one by DISKETTE_TOKEN"),
        "{error}"
    );
    let nobody = user.fails(&["images", "list", "--server", "http://127.0.0.1:1"], 3);
    assert!(
        nobody.contains("http://127.0.0.1:1 does not answer"),
        "{nobody}"
    );
    let wrong = user.fails(&["images", "list", "--server", "ftp://x"], 1);
    assert!(wrong.contains("is no address of a service"), "{wrong}");
}

#[test]
fn a_token_stands_in_a_file_and_can_be_made_and_revoked() {
    let user = User::new();
    let token = user.says(&["token", "create", "reader", "--scope", "read"]);
    assert!(token.starts_with("dsk_"), "{token}");
    std::fs::create_dir_all(user.path(".config/diskette")).unwrap();
    std::fs::write(user.path(".config/diskette/token"), &token).unwrap();
    let by_file = |words: &[&str]| {
        let mut command = user.command(words);
        command.env_remove("DISKETTE_TOKEN").output().unwrap()
    };
    assert!(by_file(&["images", "list"]).status.success());
    let refused = by_file(&["token", "list"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(FORBIDDEN)"));
    let all = user.json(&["token", "list"]);
    let id = all
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["name"] == "reader")
        .unwrap();
    user.says(&["token", "revoke", id["id"].as_str().unwrap()]);
    assert!(!by_file(&["images", "list"]).status.success());
}

#[test]
fn a_stream_and_a_downloaded_stream_are_the_same_disk() {
    let user = User::new();
    let bytes = disk(3 << 20);
    let mut add = user
        .command(&["images", "add", "-", "--name", "piped", "--json", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    add.stdin.take().unwrap().write_all(&bytes).unwrap();
    let image = added(add);
    assert_eq!(image["guest_sha256"], sha256(&bytes));
    let out = user.run(&["images", "download", "piped", "--format", "raw", "-o", "-"]);
    assert_eq!(sha256(&out.stdout), sha256(&bytes));
}

/// Waits until a line of the error output has this text.
fn until_said(child: &mut Child, text: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let found = lines.any(|line| line.unwrap().contains(text));
    assert!(found, "{text}");
}

#[test]
fn an_upload_that_was_interrupted_goes_on_when_the_same_file_is_added_again() {
    let user = User::new();
    let bytes = disk(96 << 20);
    user.write("big.img", &bytes);
    let mut first = user
        .command(&["images", "add", "big.img"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let received = |image: &Value| image["progress"]["bytes_received"].as_u64().unwrap_or(0);
    let start = Instant::now();
    loop {
        let page = user.server.get("/api/v1/images").value();
        if page["items"]
            .get(0)
            .is_some_and(|image| received(image) >= 16 << 20)
        {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{page:#}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = first.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    until_said(&mut first, "interrupted: the same command goes on");
    assert_eq!(first.wait().unwrap().code(), Some(130));
    let page = user.server.get("/api/v1/images").value();
    let before = page["items"][0].clone();
    assert_eq!(before["state"].as_str(), Some("receiving"), "{before:#}");
    assert!(received(&before) < bytes.len() as u64);

    let again = user.run(&["images", "add", "big.img", "--json"]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success(), "{said}");
    assert!(
        said.contains("going on with what was sent before"),
        "{said}"
    );
    let image: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(image["id"], before["id"]);
    assert_eq!(image["guest_sha256"], sha256(&bytes));
    let marks = std::fs::read_dir(user.path(".local/state/diskette/uploads")).unwrap();
    assert_eq!(marks.count(), 0, "what is over is forgotten");
}

#[test]
fn an_upload_outlives_a_service_that_is_killed_and_started_again() {
    let mut user = User::of(Server::on_a_fixed_port());
    let bytes = disk(96 << 20);
    user.write("big.img", &bytes);
    let add = user
        .command(&["images", "add", "big.img", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while user.server.get("/api/v1/images").value()["items"][0]["progress"]["bytes_received"]
        .as_u64()
        .unwrap_or(0)
        < 16 << 20
    {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    user.server.kill_and_restart();
    let image = added(add);
    assert_eq!(image["guest_sha256"], sha256(&bytes));
}

#[test]
fn a_node_is_made_spoken_with_kept_and_ended() {
    if Tool::find("qemu-system-x86_64").is_none() {
        return;
    }
    let user = User::new();
    user.write("guest.img", &boot_sector());
    user.says(&["images", "add", "guest.img"]);
    let made = user.says(&[
        "nodes",
        "create",
        "one",
        "guest",
        "--preset",
        "router",
        "--memory",
        "32M",
        "--set",
        "hw_video_model=vga",
        "--start",
    ]);
    assert_eq!(made, "one: running\n");
    let list = user.says(&["nodes", "list"]);
    assert!(list.contains("one") && list.contains("32 MiB"), "{list}");

    let mut console = user
        .command(&["console", "one"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = console.stdout.take().unwrap();
    let mut hear = |text: &str| {
        let mut said = String::new();
        let mut byte = [0];
        while !said.contains(text) {
            output.read_exact(&mut byte).unwrap();
            said.push(char::from(byte[0]));
        }
    };
    hear("SMALL GUEST READY");
    let mut keys = console.stdin.take().unwrap();
    keys.write_all(b"hello").unwrap();
    hear("hello");
    drop(keys);

    let log = user.says(&["nodes", "log", "one"]);
    assert!(log.contains("SMALL GUEST READY"), "{log}");
    let line = user.says(&["nodes", "command", "one"]);
    assert!(
        line.contains("qemu-system-x86_64 ") && line.contains(" -nodefaults"),
        "{line}"
    );
    user.says(&["nodes", "screenshot", "one", "-o", "screen.png"]);
    assert_eq!(
        &std::fs::read(user.path("screen.png")).unwrap()[1..4],
        b"PNG"
    );
    assert_eq!(user.says(&["nodes", "pause", "one"]), "one: paused\n");
    assert_eq!(user.says(&["nodes", "resume", "one"]), "one: running\n");
    let snapshots = user.says(&["nodes", "snapshot", "one", "warm"]);
    assert!(
        snapshots.contains("warm") && snapshots.contains("yes"),
        "{snapshots}"
    );
    user.says(&["nodes", "restore", "one", "warm"]);
    user.says(&["nodes", "snapshot", "one", "warm", "--delete"]);
    assert_eq!(user.json(&["nodes", "snapshots", "one"]), json!([]));

    let published = user.says(&["nodes", "publish", "one", "configured"]);
    assert!(
        published.contains("name:          configured") && published.contains("ready"),
        "{published}"
    );
    assert_eq!(user.says(&["nodes", "stop", "one"]), "one: stopped\n");
    // The console has closed by itself, and said so.
    let mut said = String::new();
    console
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains("the node has ended"), "{said}");
    assert!(console.wait().unwrap().success());
    let gone = user.fails(&["console", "one"], 1);
    assert!(gone.contains("(CONSOLE_GONE)"), "{gone}");
    user.says(&["nodes", "wipe", "one"]);
    user.says(&["nodes", "rm", "one"]);
    assert_eq!(user.json(&["nodes", "list"]), json!([]));
}

#[test]
fn a_base_image_is_fetched_and_its_updates_are_seen() {
    let user = User::of(Server::with(&["--allow-addresses", "127.0.0.1"]));
    let mirror = Mirror::start();
    let url = mirror.put("router.vmdk", File::of(&router()));
    let entry = json!({"urls": [url], "checksum": {"sha256": sha256(&router())}, "os": "ios"});
    let put = user.server.json("PUT", "/api/v1/catalog/lab", &entry);
    assert_eq!(put.status, 201, "{}", put.text());
    let list = user.says(&["base", "list"]);
    assert!(
        list.contains("debian-12") && list.contains("lab "),
        "{list}"
    );
    let said = user.says(&["base", "fetch", "lab"]);
    assert!(said.starts_with("lab: ready, image "), "{said}");
    assert_eq!(user.says(&["base", "fetch", "lab"]), "nothing is missing\n");
    let image = user.json(&["images", "get", "lab"]);
    assert_eq!(image["source"]["sha256"], sha256(&router()));
    let said = user.says(&["base", "updates", "lab"]);
    assert!(said.contains("1 looked at, none newer"), "{said}");
    let none = user.fails(&["base", "fetch", "nothing-such"], 1);
    assert!(none.contains("(NOT_FOUND)"), "{none}");
    let gone = json!({"urls": [mirror.url("gone")], "checksum": {"sha256": sha256(b"x")}});
    user.server
        .json("PUT", "/api/v1/catalog/gone", &gone)
        .expect(201);
    let output = user.run(&["base", "fetch", "gone"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.starts_with("gone: ") && said.contains("FAILED"),
        "{said}"
    );
}

#[test]
fn shells_are_told_all_verbs() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.says(&["completions", shell]);
        assert!(
            script.contains("boot-test") && script.contains("snapshot"),
            "{shell}"
        );
        assert!(!script.contains("DISKETTE_TOKEN=dsk"), "{shell}");
    }
    let help = user.says(&["images", "add", "--help"]);
    assert!(!help.contains(&user.server.token), "a help shows no token");
}

/// The image that a command has added, as it tells it.
fn added(add: Child) -> Value {
    let added = add.wait_with_output().unwrap();
    assert!(
        added.status.success(),
        "{}",
        String::from_utf8_lossy(&added.stderr)
    );
    serde_json::from_slice(&added.stdout).unwrap()
}
