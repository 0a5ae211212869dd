//! A browser before the page of a real server: Debian's Chromium, driven by scripts of `tests/browser` over playwright-core.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use diskette_testkit::tools::{Tool, skip};
use serde_json::Value;

use super::Server;

/// No script takes longer, unless it hangs.
const LONGEST: Duration = Duration::from_secs(300);

/// What scripts are run by.
pub struct Browser {
    node: Tool,
}

impl Browser {
    /// `None`, and a word about it, where Node.js, Chromium or the scripts' packages are missing.
    pub fn find() -> Option<Self> {
        let node = Tool::find("node")?;
        Tool::find("chromium")?;
        if !folder().join("node_modules").is_dir() {
            skip("playwright-core (`npm ci` in crates/diskette-service/tests/browser)");
            return None;
        }
        Some(Self { node })
    }

    /// Runs a script before a server, and gives what it hands back. Panics, with what it said, unless it succeeds.
    #[track_caller]
    pub fn run(&self, server: &Server, script: &str, given: &Value) -> Value {
        let command = &mut self.node.command();
        command
            .arg(folder().join(script))
            .env("DISKETTE_ADDRESS", &server.address)
            .env("DISKETTE_TOKEN", &server.token)
            .env("DISKETTE_GIVEN", given.to_string());
        let (succeeded, said) = run_in_time(command);
        assert!(succeeded, "{script}:\n{said}");
        let handed = said
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("handed back: "));
        handed.map_or(Value::Null, |handed| serde_json::from_str(handed).unwrap())
    }
}

/// Where the scripts are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// Whether it succeeded, and all that was said.
fn run_in_time(command: &mut Command) -> (bool, String) {
    let (mut out, inlet) = std::io::pipe().unwrap();
    command.stdin(Stdio::null());
    command.stdout(inlet.try_clone().unwrap()).stderr(inlet);
    let mut child = command.spawn().unwrap();
    // The pipe ends when nobody can write to it any more.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        out.read_to_end(&mut said).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    });
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LONGEST {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    (status.success(), said.join().unwrap())
}
