//! One request at a time to another server: every step of a redirection is judged anew.

use std::time::Duration;

use ureq::Agent;
use ureq::http::{Request, Response, Uri, header};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Body, config::Config};

use super::address::{Guarded, REFUSED};
use crate::problem::{DOWNLOAD_FAILED, Problem, Result, URL_REFUSED};
use crate::settings::Settings;

/// What asks.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    /// Whether plain HTTP will do: a digest is known, or the network is trusted.
    plain: bool,
}

/// Redirections that are followed.
const MOST_STEPS: usize = 6;

impl Client {
    pub(crate) fn new(settings: &Settings, has_digest: bool) -> Self {
        let stall = Duration::from_secs(settings.stall_timeout);
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy would look names up for us.
            .proxy(None)
            .user_agent(concat!("diskette-service/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(stall.max(Duration::from_secs(1))))
            .timeout_per_read(Some(stall.max(Duration::from_secs(1))))
            .build();
        let resolver = Guarded::new(settings);
        Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), resolver),
            plain: has_digest || settings.allow_private_urls,
        }
    }

    /// That such an address may be asked at all; where it leads is seen when it is.
    pub(super) fn allowed(&self, url: &str) -> Result<Uri> {
        let refused =
            |why: &str| Problem::new(URL_REFUSED, format!("\"{}\": {why}", url.escape_debug()));
        let uri: Uri = url.parse().map_err(|_| refused("not an address"))?;
        let authority = uri
            .authority()
            .ok_or_else(|| refused("it names no server"))?;
        if authority.as_str().contains('@') {
            return Err(refused("it holds a password"));
        }
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if self.plain => Ok(uri),
            Some("http") => Err(refused("plain HTTP, and no digest is known")),
            _ => Err(refused("neither https nor http")),
        }
    }

    /// Asks for bytes, or about them; follows where that leads.
    pub(crate) fn ask(&self, ask: &Ask<'_>) -> Result<Response<Body>> {
        let mut uri = self.allowed(ask.url)?;
        for _ in 0..MOST_STEPS {
            let request = ask.request(&uri)?;
            let answer = self
                .agent
                .run(request)
                .map_err(|error| self.of(&uri, &error))?;
            match answer.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => {
                    let to = answer.headers().get(header::LOCATION);
                    let to = to.and_then(|to| to.to_str().ok());
                    let to = to.ok_or_else(|| failed(&uri, "it leads on to nowhere"))?;
                    uri = self.allowed(&joined(&uri, to))?;
                }
                200 | 206 => return Ok(answer),
                304 if ask.unless.is_some() => return Ok(answer),
                416 if ask.from > 0 => return Ok(answer),
                status => {
                    let problem = failed(&uri, format!("it answers {status}"));
                    return Err(problem.with("answered", status));
                }
            }
        }
        Err(failed(&uri, "it leads on and on"))
    }

    fn of(&self, uri: &Uri, error: &ureq::Error) -> Problem {
        let text = error.to_string();
        match text.contains(REFUSED) {
            true => Problem::new(URL_REFUSED, format!("{uri}: {text}")),
            false => failed(uri, text),
        }
    }
}

/// What is asked of another server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(super) url: &'a str,
    /// Whether it is asked about the bytes alone.
    pub(super) head: bool,
    /// The first byte, and the end of the last.
    pub(super) from: u64,
    pub(super) to: Option<u64>,
    /// The ETag that the bytes are to have; if they have another, all of them come.
    pub(super) version: Option<&'a str>,
    /// The ETag that they are to have no longer.
    pub(super) unless: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(super) const fn whole(url: &'a str) -> Self {
        Self {
            url,
            head: false,
            from: 0,
            to: None,
            version: None,
            unless: None,
        }
    }

    /// About the bytes, if they have not this ETag any more.
    pub(crate) const fn about(url: &'a str, unless: Option<&'a str>) -> Self {
        Self {
            head: true,
            unless,
            ..Self::whole(url)
        }
    }

    fn request(&self, uri: &Uri) -> Result<Request<()>> {
        let method = if self.head { "HEAD" } else { "GET" };
        let mut request = Request::builder().method(method).uri(uri.clone());
        if self.from > 0 || self.to.is_some() {
            let last = self.to.map(|to| to.saturating_sub(1).to_string());
            let range = format!("bytes={}-{}", self.from, last.unwrap_or_default());
            request = request.header(header::RANGE, range);
            if let Some(version) = self.version {
                request = request.header(header::IF_RANGE, version);
            }
        }
        if let Some(known) = self.unless {
            request = request.header(header::IF_NONE_MATCH, known);
        }
        request.body(()).map_err(|error| failed(uri, error))
    }
}

/// The ETag of an answer, if it is a strong one: the same ETag, the same bytes.
pub(crate) fn strong_etag(answer: &Response<Body>) -> Option<String> {
    let tag = answer.headers().get(header::ETAG)?.to_str().ok()?;
    (tag.len() > 2 && tag.starts_with('"')).then(|| tag.to_owned())
}

/// What the other server did wrong.
pub(super) fn failed(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Problem {
    Problem::new(DOWNLOAD_FAILED, format!("{what}: {why}"))
}

/// Whether it is of use to ask again: not where the server has said that it is the request that is wrong.
pub(super) fn may_pass(problem: &Problem) -> bool {
    let mut told = problem.more.iter().filter(|(name, _)| name == "answered");
    let status = told.find_map(|(_, status)| status.as_u64());
    problem.code == DOWNLOAD_FAILED
        && !status.is_some_and(|status| (400..500).contains(&status) && status != 429)
}

/// Where a redirection leads, which may be said without the server's name.
fn joined(from: &Uri, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    let scheme = from.scheme_str().unwrap_or("https");
    if let Some(rest) = to.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let server = from.authority().map_or("", |authority| authority.as_str());
    match to.strip_prefix('/') {
        Some(rest) => format!("{scheme}://{server}/{rest}"),
        None => {
            let folder = from
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!("{scheme}://{server}{folder}/{to}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_is_followed_from_where_it_stands() {
        let from: Uri = "https://a.example/x/y?z".parse().unwrap();
        assert_eq!(joined(&from, "http://b.example/c"), "http://b.example/c");
        assert_eq!(joined(&from, "//b.example/c"), "https://b.example/c");
        assert_eq!(joined(&from, "/c"), "https://a.example/c");
        assert_eq!(joined(&from, "c"), "https://a.example/x/c");
    }
}
