//! The interface is what it says it is: schemathesis makes requests of its description, right ones and wrong ones, and holds
//! each answer against it. No answer is a server's error.
//!
//! Where schemathesis is not installed, this says so. `DISKETTE_CONTRACT=full` has it try much more, for some minutes.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::Path;
use std::process::Command;

use common::Server;
use common::guest::boot_sector;
use diskette_testkit::tools::Tool;
use serde_json::json;

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method";

#[test]
fn every_answer_is_one_that_the_description_allows() {
    if Tool::find("schemathesis").is_none() {
        return;
    }
    let server = Server::start();
    furnish(&server);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), CONFIG).unwrap();
    let full = std::env::var("DISKETTE_CONTRACT").is_ok_and(|word| word == "full");
    let (phases, examples) = match full {
        true => ("coverage,fuzzing", "25"),
        false => ("fuzzing", "4"),
    };
    let mut command = Command::new("schemathesis");
    command
        .args(["run", &server.url("/api/v1/openapi.json")])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", server.token),
        ])
        .args([
            "--checks",
            CHECKS,
            "--phases",
            phases,
            "--max-examples",
            examples,
        ])
        .args([
            "--seed",
            "1",
            "--request-timeout",
            "60",
            "--no-shrink",
            "--suppress-health-check",
            "all",
        ])
        // It would revoke the token that it has.
        .args(["--exclude-path-regex", "^/api/v1/tokens/"])
        .args(["--warnings", "off"])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env(
            "PYTHONPATH",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract"),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer = server.get("/api/v1/images/kept").expect(200);
    assert_eq!(answer["state"], "ready", "it is still there, and serves");
}

/// So that there is something to be asked for.
const CONFIG: &str = r#"
[[operations]]
include-path-regex = "^/api/v1/images/"
exclude-method = "DELETE"
parameters = { "path.id" = "kept" }

[[operations]]
include-path-regex = "^/api/v1/nodes/"
exclude-method = "DELETE"
parameters = { "path.id" = "one" }

[[operations]]
include-path-regex = "/actions/"
parameters = { "path.id" = "kept", "path.action" = "verify" }
"#;

fn furnish(server: &Server) {
    let made = server
        .json("POST", "/api/v1/images", &json!({"name": "kept"}))
        .expect(201);
    let path = format!("/api/v1/images/{}/file", made["id"].as_str().unwrap());
    server.call("PUT", &path, &[], &boot_sector()).expect(200);
    server
        .json(
            "POST",
            "/api/v1/nodes",
            &json!({"name": "one", "image": "kept", "preset": "router"}),
        )
        .expect(201);
}
