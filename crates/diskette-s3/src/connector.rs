//! How requests go out: by the same client that reads images behind `https://`.

use std::io::{ErrorKind, Read};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpService,
};
use object_store::{ClientOptions, Error, Result};
use tokio::task::spawn_blocking;
use ureq::Agent;
use ureq::http::request::Parts;
use ureq::http::{Method, Request};

/// Makes clients. One that may only speak `https://` speaks nothing else.
#[derive(Debug)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let config = diskette_http::agent_config().map_err(|error| Error::Generic {
            store: "S3",
            source: error.into(),
        })?;
        // A request that is sent elsewhere would bear the wrong signature.
        let config = config
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(allowed.as_deref() != Some("true"))
            .build();
        Ok(HttpClient::new(Service {
            agent: config.into(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    agent: Agent,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let agent = self.agent.clone();
        let answer = spawn_blocking(move || answer(&agent, parts, &body)).await;
        answer.map_err(|ended| HttpError::new(HttpErrorKind::Unknown, ended))?
    }
}

/// The longest answer that is taken: many times what is ever asked for.
const LONGEST: u64 = 64 << 20;

fn answer(agent: &Agent, parts: Parts, body: &Bytes) -> Result<HttpResponse, HttpError> {
    let bears_body =
        !body.is_empty() || parts.method == Method::POST || parts.method == Method::PUT;
    let response = match bears_body {
        true => agent.run(Request::from_parts(parts, &body[..])),
        false => agent.run(Request::from_parts(parts, ())),
    };
    let (parts, body) = response.map_err(failed)?.into_parts();
    let mut bytes = Vec::new();
    body.into_reader()
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
    Ok(HttpResponse::from_parts(parts, bytes.into()))
}

/// The kind tells whether it may be tried again.
fn failed(error: ureq::Error) -> HttpError {
    let kind = match &error {
        // A certificate that is not believed; it will be no other.
        ureq::Error::Io(refused) if refused.kind() == ErrorKind::InvalidData => {
            HttpErrorKind::Unknown
        }
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Io(_) | ureq::Error::Protocol(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}
