//! The page's files, and the sessions by which it calls.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{Answer, Server};
use serde_json::{Value, json};

const SESSION: &str = "/api/v1/session";

/// What a browser would keep of a login.
struct Page {
    cookie: String,
    csrf: String,
}

impl Page {
    fn of(answer: Answer) -> Self {
        let set = answer.header("set-cookie").to_owned();
        assert!(set.contains("; HttpOnly; SameSite=Strict"), "{set}");
        let begun = answer.expect(201);
        Self {
            cookie: set.split(';').next().unwrap().to_owned(),
            csrf: begun["csrf"].as_str().unwrap().to_owned(),
        }
    }

    fn call(&self, server: &Server, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
        let mut headers = vec![("cookie", self.cookie.as_str())];
        headers.extend(more);
        server.plain(method, path, &headers, b"")
    }
}

fn login(server: &Server, body: &Value) -> Answer {
    let kind = [("content-type", "application/json")];
    server.plain("POST", SESSION, &kind, body.to_string().as_bytes())
}

#[test]
fn the_page_and_its_files_are_served_under_a_strict_policy() {
    let server = Server::start();
    let page = server.plain("GET", "/", &[], &[]);
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.contains("script-src 'self';"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let text = page.text();
    assert!(!text.contains("{build}"));
    let script = text.split("src=\"").nth(1).unwrap();
    let script = script.split('"').next().unwrap();
    let seen = server.plain("GET", script, &[], &[]);
    assert_eq!(
        seen.header("content-type"),
        "text/javascript; charset=utf-8"
    );
    let tag = [("if-none-match", seen.header("etag"))];
    assert_eq!(server.plain("GET", script, &tag, &[]).status, 304);
    let wishes = [("accept-encoding", "gzip")];
    let packed = server.plain("GET", script, &wishes, &[]);
    assert_eq!(packed.status, 200);
    assert_ne!(packed.header("etag"), seen.header("etag"));
    for path in [
        "/assets/x/../Cargo.toml",
        "/assets/x/none.js",
        "/assets/x/..%2fCargo.toml",
    ] {
        assert_eq!(server.plain("GET", path, &[], &[]).status, 404, "{path}");
    }
}

#[test]
fn a_session_reads_by_its_cookie_and_changes_by_its_word_too() {
    let mut server = Server::start();
    let page = Page::of(login(&server, &json!({"token": server.token})));
    let who = page.call(&server, "GET", SESSION, &[]).expect(200);
    assert_eq!(who["name"], "first");
    assert_eq!(who["scope"], "admin");
    assert!(who.get("csrf").is_none());
    let tokens = "/api/v1/tokens";
    page.call(&server, "GET", tokens, &[]).expect(200);
    let new = json!({"name": "n", "scope": "read"}).to_string();
    let make = |more: &[(&str, &str)]| {
        let mut headers = vec![
            ("cookie", page.cookie.as_str()),
            ("content-type", "application/json"),
        ];
        headers.extend(more);
        server.plain("POST", tokens, &headers, new.as_bytes())
    };
    make(&[]).refused(403, "CSRF_REFUSED");
    make(&[("x-csrf-token", "0")]).refused(403, "CSRF_REFUSED");
    let word = ("x-csrf-token", page.csrf.as_str());
    make(&[word, ("origin", "http://localhost:8080")]).refused(403, "ORIGIN_REFUSED");
    make(&[word]).expect(201);
    // A start later it goes on; logged out, it is over.
    server.kill_and_restart();
    page.call(&server, "DELETE", SESSION, &[])
        .refused(403, "CSRF_REFUSED");
    let gone = page.call(&server, "DELETE", SESSION, &[word]);
    assert_eq!(gone.status, 204);
    assert!(gone.header("set-cookie").contains("Max-Age=0"));
    page.call(&server, "GET", SESSION, &[])
        .refused(401, "UNAUTHORIZED");
}

#[test]
fn a_wrong_token_begins_no_session() {
    let server = Server::start();
    for body in [
        json!({"token": format!("{}0", server.token)}),
        json!({"code": "0"}),
        json!({"code": ""}),
    ] {
        let answer = login(&server, &body);
        assert!(answer.headers.get("set-cookie").is_none());
        answer.refused(401, "UNAUTHORIZED");
    }
    login(&server, &json!({})).refused(400, "BAD_REQUEST");
    server
        .plain("GET", SESSION, &[("cookie", "diskette-0=0")], &[])
        .refused(401, "UNAUTHORIZED");
}

#[test]
fn a_session_ends_with_its_time_and_with_its_token() {
    let server = Server::with(&["--session-expiry", "1"]);
    let page = Page::of(login(&server, &json!({"token": server.token})));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    page.call(&server, "GET", SESSION, &[])
        .refused(401, "UNAUTHORIZED");

    let server = Server::start();
    let new = json!({"name": "guest", "scope": "read"});
    let made = server.json("POST", "/api/v1/tokens", &new).expect(201);
    let guest = Page::of(login(&server, &json!({"token": made["token"]})));
    let word = [("x-csrf-token", guest.csrf.as_str())];
    guest
        .call(&server, "DELETE", "/api/v1/tokens/x", &word)
        .refused(403, "FORBIDDEN");
    let token = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(server.call("DELETE", &token, &[], &[]).status, 204);
    guest
        .call(&server, "GET", SESSION, &[])
        .refused(401, "UNAUTHORIZED");
}

#[test]
fn the_last_use_of_a_token_is_recorded_to_the_minute_also_by_its_sessions() {
    let server = Server::start();
    let made = |name: &str| {
        let new = json!({"name": name, "scope": "read"});
        let made = server.json("POST", "/api/v1/tokens", &new).expect(201);
        made["token"].as_str().unwrap().to_owned()
    };
    let used = |name: &str| {
        let all = server.get("/api/v1/tokens").expect(200);
        let token = all.as_array().unwrap().iter();
        let token = token.clone().find(|token| token["name"] == name).unwrap();
        token["used_at"].as_str().map(str::to_owned)
    };
    let until_used = |name: &str, before: Option<&str>| {
        for _ in 0..1000 {
            if let Some(at) = used(name).filter(|at| Some(at.as_str()) != before) {
                return at;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("its use is not recorded");
    };
    let (token, _) = (made("often"), made("never"));
    assert_eq!((used("often"), used("never")), (None, None));
    let bearer = format!("Bearer {token}");
    let call = || {
        let headers = [("authorization", bearer.as_str())];
        server.plain("GET", SESSION, &headers, b"").expect(200)
    };
    call();
    let first = until_used("often", None);
    call();
    let page = Page::of(login(&server, &json!({"token": token})));
    page.call(&server, "GET", SESSION, &[]).expect(200);
    assert_eq!(used("often"), Some(first));
    assert_eq!(used("never"), None);

    // A minute later the session's next request is recorded.
    let ago = "2001-01-01T00:00:00.000000Z";
    set_used(&server, "often", ago);
    page.call(&server, "GET", SESSION, &[]).expect(200);
    until_used("often", Some(ago));
}

/// As if a token had last been used at this time.
fn set_used(server: &Server, name: &str, at: &str) {
    let path = server.data.join("records.sqlite");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let records = sqlx::SqlitePool::connect_with(options).await.unwrap();
        let set = sqlx::query("UPDATE tokens SET used_at = ? WHERE name = ?");
        set.bind(at).bind(name).execute(&records).await.unwrap();
        records.close().await;
    });
}

#[test]
fn the_printed_address_logs_in_once() {
    let mut server = Server::start();
    let line = server.line();
    let code = line.split("/#login=").nth(1).expect("an address");
    let code = json!({"code": code});
    let page = Page::of(login(&server, &code));
    let who = page.call(&server, "GET", SESSION, &[]).expect(200);
    assert_eq!(who["scope"], "admin");
    login(&server, &code).refused(401, "UNAUTHORIZED");
}
