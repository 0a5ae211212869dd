//! Which names the service answers to, and which pages may call it.
//!
//! A page of any site can have a browser send requests to this machine, and by a name of its own that leads here (DNS
//! rebinding). So the `Host` must be one of ours, and an `Origin`, where a browser sends one, the same as it.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::{ORIGIN_REFUSED, Problem};
use crate::settings::Settings;
use crate::state::Shared;

/// The layer that refuses all else.
pub(crate) async fn guard(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match refused(&app.settings, request.headers(), request.uri().host()) {
        Some(why) => Problem::new(ORIGIN_REFUSED, why).into_response(),
        None => next.run(request).await,
    }
}

fn refused(settings: &Settings, headers: &HeaderMap, named: Option<&str>) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).or(named).unwrap_or_default();
    let name = without_port(host);
    if !is_ours(settings, name) {
        return Some(format!(
            "the service is not called \"{}\"",
            name.escape_debug()
        ));
    }
    let origin = headers.get(header::ORIGIN)?;
    let origin = origin.to_str().unwrap_or_default();
    let page = origin.split_once("://").map_or("", |(_, page)| page);
    let same = page.eq_ignore_ascii_case(host);
    (!same).then(|| format!("a page of \"{}\" must not call", origin.escape_debug()))
}

fn is_ours(settings: &Settings, name: &str) -> bool {
    if settings
        .hosts
        .iter()
        .any(|ours| ours.eq_ignore_ascii_case(name))
    {
        return true;
    }
    let address: Option<IpAddr> = name.parse().ok();
    match settings.is_local() {
        true => {
            name.eq_ignore_ascii_case("localhost")
                || address.is_some_and(|address| address.is_loopback())
        }
        // Whatever the proxy calls it, where nothing is said of names.
        false => settings.hosts.is_empty(),
    }
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::settings::Given;

    fn answer(host: &'static str, origin: Option<&'static str>) -> bool {
        let settings = Settings::of_flags(Given::default()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        refused(&settings, &headers, None).is_none()
    }

    #[test]
    fn only_names_and_pages_of_this_machine_are_answered() {
        assert!(answer("localhost:3001", None));
        assert!(answer("127.0.0.1:3001", Some("http://127.0.0.1:3001")));
        assert!(answer("[::1]:3001", None));
        assert!(!answer("evil.example", None));
        assert!(!answer("localhost:3001", Some("http://evil.example")));
        assert!(!answer("localhost:3001", Some("http://localhost:8080")));
        assert!(!answer("localhost:3001", Some("null")));
        assert!(!answer("127.0.0.1.evil.example", None));
    }
}
