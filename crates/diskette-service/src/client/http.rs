//! Requests to the service, and what it answers.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, SendBody};

use super::{Failure, Refusal, Result, Service};

/// A service that is spoken with.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    /// Scheme, host and port: no slash at the end.
    pub(super) server: String,
    token: Option<String>,
    pub(super) json: bool,
    pub(super) quiet: bool,
}

/// Most bytes of an answer that is kept whole.
const LONGEST: u64 = 256 << 20;

impl Client {
    pub(crate) fn new(service: &Service) -> Result<Self> {
        let server = service.server.trim_end_matches('/').to_owned();
        let uri: Uri = server
            .parse()
            .map_err(|_| not_an_address(&service.server))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(not_an_address(&service.server));
        }
        let host = uri.host().ok_or_else(|| not_an_address(&service.server))?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .allow_non_standard_methods(true)
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("diskette-service/", env!("CARGO_PKG_VERSION")));
        if is_this_machine(host) {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().into(),
            server,
            token: token(service)?,
            json: service.json,
            quiet: service.quiet,
        })
    }

    /// What is answered to a question.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None)
    }

    /// The same for any method, with a body in JSON.
    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = match body {
            Some(body) => {
                let text = body.to_string();
                let headers = [
                    ("content-type", "application/json"),
                    ("content-length", &text.len().to_string()),
                ];
                let mut text = text.as_bytes();
                self.request(method, path, &headers, SendBody::from_reader(&mut text))?
            }
            None if method == "POST" => {
                self.request(method, path, &[("content-length", "0")], SendBody::none())?
            }
            None => self.request(method, path, &[], SendBody::none())?,
        };
        let bytes = self.whole(answer)?;
        match bytes.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&bytes)
                .map_err(|_| Failure::Told(format!("{} speaks no JSON", self.server))),
        }
    }

    /// An answer with its body still to be read; what is refused is a failure.
    pub(super) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: SendBody<'_>,
    ) -> Result<Response<Body>> {
        let uri = format!("{}{path}", self.server);
        let mut request = ureq::http::Request::builder().method(method).uri(uri);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body)
            .map_err(|error| Failure::Told(error.to_string()))?;
        let answer = self
            .agent
            .run(request)
            .map_err(|error| self.unreachable(&error))?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(self.refused(answer)),
        }
    }

    /// All bytes of an answer.
    pub(super) fn whole(&self, mut answer: Response<Body>) -> Result<Vec<u8>> {
        let body = answer.body_mut().with_config().limit(LONGEST);
        body.read_to_vec().map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let why = match error {
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        Failure::Unreachable {
            server: self.server.clone(),
            why,
        }
    }

    fn refused(&self, answer: Response<Body>) -> Failure {
        let status = answer.status().as_u16();
        let bytes = self.whole(answer).unwrap_or_default();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        problem(&body).unwrap_or_else(|| {
            Failure::Refused(Box::new(Refusal {
                status,
                code: format!("HTTP {status}"),
                detail: format!("{} answers with an error", self.server),
                hint: "Is it a diskette-service?".to_owned(),
                body,
            }))
        })
    }
}

/// What a problem says, be it answered or kept with what has failed.
pub(super) fn problem(body: &Value) -> Option<Failure> {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let (title, detail) = (text("title")?, text("detail")?);
    let mut hint = text("hint").unwrap_or_default();
    if body["code"] == "UNAUTHORIZED" {
        hint = "Give one by DISKETTE_TOKEN, --token-file or --token.".to_owned();
    }
    Some(Failure::Refused(Box::new(Refusal {
        status: u16::try_from(body["status"].as_u64().unwrap_or(0)).unwrap_or(0),
        code: text("code")?,
        detail: match detail == title {
            true => title,
            false => format!("{title}: {detail}"),
        },
        hint,
        body: body.clone(),
    })))
}

/// A name as a part of a path.
pub(super) fn segment(name: &str) -> String {
    let mut part = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                part.push(char::from(byte));
            }
            _ => part.push_str(&format!("%{byte:02X}")),
        }
    }
    // Dots alone would be taken for a step in the path.
    match part.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => part,
    }
}

fn token(service: &Service) -> Result<Option<String>> {
    if let Some(token) = &service.token {
        return Ok(Some(token.trim().to_owned()));
    }
    let path = match (&service.token_file, default_token_file()) {
        (Some(path), _) => path.clone(),
        (None, Some(path)) if path.exists() => path,
        _ => return Ok(None),
    };
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(Failure::of(format!("the token in {}", path.display())))?;
    Ok(Some(text.trim().to_owned()))
}

/// As the XDG base directories have it.
fn default_token_file() -> Option<PathBuf> {
    folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("diskette/token"))
}

/// A folder of the user's, by its variable, or below the home.
pub(super) fn folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let named_so = named(variable).map(PathBuf::from);
    named_so.or_else(|| Some(PathBuf::from(named("HOME")?).join(below_home)))
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let address: Option<std::net::IpAddr> = host.parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

fn not_an_address(server: &str) -> Failure {
    Failure::Told(format!(
        "\"{}\" is no address of a service, such as http://127.0.0.1:3001",
        super::show::plain(server)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_a_path_whatever_it_is() {
        assert_eq!(segment("router-1.0"), "router-1.0");
        assert_eq!(segment("a b/ü?#"), "a%20b%2F%C3%BC%3F%23");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
