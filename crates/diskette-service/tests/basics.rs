//! That it serves, knows who calls, and ends when it is asked to.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::Server;
use serde_json::json;

#[test]
fn an_empty_configuration_serves() {
    let mut server = Server::start();
    for path in ["/api/v1/health", "/api/health", "/api/v1/ready"] {
        assert_eq!(
            server.plain("GET", path, &[], &[]).expect(200)["status"],
            "ok"
        );
    }
    let about = server.plain("GET", "/api/v1/about", &[], &[]).expect(200);
    let formats = about["formats"].as_array().unwrap();
    assert!(formats.iter().any(|format| format["name"] == "vhdx"));
    let limits = server.plain("GET", "/api/v1/limits", &[], &[]).expect(200);
    assert_eq!(limits["max_upload"], 20_u64 << 30);
    let metrics = server.plain("GET", "/api/v1/metrics", &[], &[]);
    assert!(
        metrics
            .text()
            .contains("# TYPE diskette_http_requests_total counter")
    );
    let description = server
        .plain("GET", "/api/v1/openapi.json", &[], &[])
        .expect(200);
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let refused = &description["paths"]["/api/v1/images"]["get"]["responses"]["401"];
    assert!(refused["content"]["application/problem+json"].is_object());
    assert!(server.stop().success());
}

#[test]
fn a_token_is_shown_once_and_outlives_the_process() {
    let mut server = Server::start();
    server.kill_and_restart();
    let tokens = server.get("/api/v1/tokens").expect(200);
    assert_eq!(tokens[0]["name"], "first");
    assert!(!tokens.to_string().contains(&server.token[20..]));
}

#[test]
fn who_has_no_right_is_told_so() {
    let server = Server::start();
    let path = "/api/v1/tokens";
    server
        .plain("GET", path, &[], &[])
        .refused(401, "UNAUTHORIZED");
    let wrong = format!("Bearer {}0", server.token);
    server
        .plain("GET", path, &[("authorization", &wrong)], &[])
        .refused(401, "UNAUTHORIZED");
    let new = json!({"name": "guest", "scope": "read"});
    let made = server.json("POST", path, &new).expect(201);
    let guest = format!("Bearer {}", made["token"].as_str().unwrap());
    let guest = [("authorization", guest.as_str())];
    server
        .plain("GET", path, &guest, &[])
        .refused(403, "FORBIDDEN");
    let token = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &token, &[], &[]).status, 204);
    server
        .plain("GET", path, &guest, &[])
        .refused(401, "UNAUTHORIZED");
    let past = json!({"name": "past", "scope": "read", "expires_at": "2020-01-01T00:00:00Z"});
    let made = server.json("POST", path, &past).expect(201);
    let past = format!("Bearer {}", made["token"].as_str().unwrap());
    server
        .plain("GET", path, &[("authorization", &past)], &[])
        .refused(401, "UNAUTHORIZED");
}

#[test]
fn other_names_and_other_pages_are_refused() {
    let server = Server::start();
    let path = "/api/v1/health";
    server
        .plain("GET", path, &[("host", "evil.example")], &[])
        .refused(403, "ORIGIN_REFUSED");
    let origin = [("origin", "http://evil.example")];
    server
        .plain("GET", path, &origin, &[])
        .refused(403, "ORIGIN_REFUSED");
    let own = server.address.clone();
    server
        .plain("GET", path, &[("origin", &own)], &[])
        .expect(200);
}

#[test]
fn what_is_not_there_and_what_is_not_understood_is_a_problem() {
    let server = Server::start();
    let answer = server.get("/api/v1/nothing");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("x-request-id"), answer.value()["request_id"]);
    answer.refused(404, "NOT_FOUND");
    server
        .call("PUT", "/api/v1/health", &[], b"x")
        .refused(405, "METHOD_NOT_ALLOWED");
    server
        .json("POST", "/api/v1/tokens", &json!({"nmae": 1}))
        .refused(400, "BAD_REQUEST");
    server
        .call("POST", "/api/v1/tokens", &[], b"{}")
        .refused(415, "UNSUPPORTED_MEDIA");
    let compatible = server.plain("GET", "/api/nothing", &[], &[]).expect(404);
    assert_eq!(compatible["success"], false);
}
