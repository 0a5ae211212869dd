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
    let (image, node) = furnish(&server);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("schemathesis.toml"),
        config(&image, &node),
    )
    .unwrap();
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
    // It is still there, and serves; what there was may have been deleted.
    let after = server.get(&format!("/api/v1/images/{}", kept(&server, "after")));
    assert_eq!(after.expect(200)["state"], "ready");
}

/// So that there is something to be asked for; by their identifiers, as requests change names.
fn config(image: &str, node: &str) -> String {
    format!(
        r#"
[[operations]]
include-path-regex = "^/api/v1/images/"
exclude-method = "DELETE"
parameters = {{ "path.id" = "{image}" }}

[[operations]]
include-path-regex = "^/api/v1/nodes/"
exclude-method = "DELETE"
parameters = {{ "path.id" = "{node}" }}

[[operations]]
include-path-regex = "/actions/"
parameters = {{ "path.id" = "{image}", "path.action" = "verify" }}
"#
    )
}

/// An image and a node.
fn furnish(server: &Server) -> (String, String) {
    let image = kept(server, "kept");
    let new = json!({"name": "one", "image": image, "preset": "router"});
    let node = server.json("POST", "/api/v1/nodes", &new).expect(201);
    (image, node["id"].as_str().unwrap().to_owned())
}

/// An image of that name.
fn kept(server: &Server, name: &str) -> String {
    let new = server.json("POST", "/api/v1/images", &json!({"name": name}));
    let id = new.expect(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/images/{id}/file");
    server.call("PUT", &path, &[], &boot_sector()).expect(200);
    id
}
