//! From SandLabX's own curl line to a guest that speaks: a stream-optimized VMDK called `router.qcow2` is sent, a node of it
//! boots, the stored file stays as it was, and nothing is left of the node.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::bench::{console, hear_within};
use common::{Server, guest};
use diskette::Conversion;
use diskette_testkit::tools::Tool;
use serde_json::{Value, json};

/// A whole system that looks at all of its files takes its time under emulation.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Sends a VMDK under the name `router.qcow2`, and boots it until it says `word`. Its disk has this SHA-256.
fn end_to_end(vmdk: &Path, sha256: &str, word: &str, memory: u32) {
    let (Some(curl), Some(_)) = (Tool::find("curl"), Tool::find("qemu-system-x86_64")) else {
        return;
    };
    let server = Server::start();
    let form = format!("image=@{};filename=router.qcow2", vmdk.display());
    let url = server.url("/api/images/custom");
    let answer = curl.run(["-s", "-w", "\n%{http_code}", "-F", &form, &url]);
    let (answer, status) = answer.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(status, "201", "{answer}");
    let answer: Value = serde_json::from_str(answer).unwrap();
    let image = &answer["image"];
    let told = ["format", "originalFormat", "originalName", "guest_sha256"];
    assert_eq!(
        told.map(|name| image[name].as_str().unwrap()),
        ["qcow2", "vmdk", "router.qcow2", sha256]
    );
    let blob = server.data.join("blobs/sha256");
    let digest = image["sha256"].as_str().unwrap();
    let blob = blob.join(&digest[..2]).join(digest);
    let sha256sum = |path: &Path| {
        let sum = Tool::find("sha256sum").unwrap().run([path]);
        sum.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(sha256sum(&blob), digest);

    let new = json!({
        "name": "router", "image": image["id"], "preset": "router", "start": true,
        "machine": {"memory_mib": memory},
    });
    let node = server.json("POST", "/api/v1/nodes", &new).expect(201);
    let path = format!("/api/v1/nodes/{}", node["id"].as_str().unwrap());
    let ended = Ended(&server, path.clone());
    let ticket = server.json(
        "POST",
        &format!("{path}/console-ticket"),
        &json!({"kind": "serial"}),
    );
    let ticket = ticket.expect(201)["path"].as_str().unwrap().to_owned();
    let mut serial = console(&server, &ticket, None).unwrap();
    hear_within(&mut serial, word, PATIENCE);
    drop(ended);
    assert_eq!(sha256sum(&blob), digest);
    for folder in ["overlays", "spool", "staging"] {
        assert_eq!(server.files(folder), [] as [PathBuf; 0]);
    }
    assert_eq!(server.get("/api/v1/nodes").expect(200), json!([]));
}

/// Machines outlive a server; they must not outlive a test that fails.
struct Ended<'a>(&'a Server, String);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let gone = self.0.call("DELETE", &self.1, &[], &[]);
        if !std::thread::panicking() {
            assert_eq!(gone.status, 204);
        }
    }
}

#[test]
fn a_small_guest_in_a_vmdk_with_the_wrong_name_boots() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    std::fs::write(&raw, guest::boot_sector()).unwrap();
    let vmdk = folder.path().join("disk.vmdk");
    let disk = diskette::open(&raw).unwrap();
    let conversion = Conversion::to("vmdk").option("subformat", "streamOptimized");
    conversion.write(&disk, &vmdk).unwrap();
    let digest = diskette::engine::digest(&disk, &diskette::engine::Control::default());
    let digest = digest.unwrap().sha256_hex().to_string();
    end_to_end(&vmdk, &digest, guest::GREETING, 32);
}

#[test]
fn a_whole_system_in_a_vmdk_with_the_wrong_name_boots() {
    let Some(folder) = std::env::var_os("DISKETTE_REAL_IMAGE").map(PathBuf::from) else {
        eprintln!("skipped: DISKETTE_REAL_IMAGE is not set");
        return;
    };
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let line = sums
        .lines()
        .find(|line| line.ends_with("disk.raw"))
        .unwrap();
    let digest = line.split_whitespace().next().unwrap();
    end_to_end(
        &folder.join("disk-stream.vmdk"),
        digest,
        "GUEST DATA OK",
        512,
    );
}
