//! A real server of S3 for one test: Ceph's gateway, on one machine, with what it stores in memory.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Tool;

/// A server of its own, that ends with this value.
#[derive(Debug)]
pub struct S3Server {
    folder: PathBuf,
    port: u16,
    curl: Tool,
}

/// What it takes.
const TOOLS: [&str; 6] = [
    "ceph",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
];

impl S3Server {
    /// Starts a server with an empty bucket, its files in `folder`. `None` where it is not installed: see [`Tool::find`].
    #[must_use]
    pub fn start(folder: &Path, bucket: &str) -> Option<Self> {
        for tool in TOOLS {
            Tool::find(tool)?;
        }
        let server = Self {
            folder: folder.to_owned(),
            port: free_port(),
            curl: Tool::find("curl")?,
        };
        let script = folder.join("start.sh");
        fs::write(&script, include_str!("s3_server.sh")).expect("a script is written");
        Tool::find("bash")?.run([
            script.as_os_str(),
            folder.as_os_str(),
            server.port.to_string().as_ref(),
            free_port().to_string().as_ref(),
        ]);
        server.ask("PUT", &format!("{bucket}/"));
        Some(server)
    }

    /// The environment by which clients find it.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "AWS_ENDPOINT_URL",
                format!("http://127.0.0.1:{}", self.port),
            ),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "KEY".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "SECRET".to_owned()),
        ]
    }

    /// What it answers to a request for a path behind its address.
    pub fn ask(&self, method: &str, path: &str) -> String {
        let address = format!("http://127.0.0.1:{}/{path}", self.port);
        self.curl.run([
            "--silent",
            "--show-error",
            "--fail",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "--user",
            "KEY:SECRET",
            "--header",
            "x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "--request",
            method,
            &address,
        ])
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let Ok(files) = fs::read_dir(self.folder.join("run")) else {
            return;
        };
        for file in files.flatten() {
            let path = file.path();
            if path.extension().is_some_and(|name| name == "pid")
                && let Ok(pid) = fs::read_to_string(&path)
            {
                // One that has ended already is no fault.
                let _ = Command::new("kill").args(["-9", pid.trim()]).status();
            }
        }
    }
}

/// A port that nobody had a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}
