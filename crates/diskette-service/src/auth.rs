//! Who calls, and what the caller may do.

mod session;
mod tokens;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::{FORBIDDEN, Problem, Result, UNAUTHORIZED};
use crate::state::Shared;

pub(crate) use session::{Begun, Codes, Login, Who, begin as begin_session, end as end_session};
pub(crate) use tokens::{NewToken, Token, create, first_token, list, revoke};

/// What a caller may do. Each holds those before it. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// Look, and download.
    Read,
    /// Upload, change, delete, launch.
    Write,
    /// All of it, in every project; tokens.
    Admin,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) project: String,
    pub(crate) scope: Scope,
}

/// The project of whoever needs no token.
pub(crate) const DEFAULT_PROJECT: &str = "default";

impl Caller {
    /// That the caller may do what needs `scope`.
    pub(crate) fn need(&self, scope: Scope) -> Result<()> {
        if self.scope >= scope {
            return Ok(());
        }
        let detail = format!(
            "the token has the scope `{}`, needed is `{scope}`",
            self.scope
        );
        Err(Problem::new(FORBIDDEN, detail))
    }
}

/// By token, or by the cookie of a session.
impl FromRequestParts<Shared> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let Some(sent) = parts.headers.get(header::AUTHORIZATION) else {
            return session::known(app, parts).await;
        };
        let missing = || Problem::new(UNAUTHORIZED, "no bearer token was sent");
        let sent = sent.to_str().ok();
        let token = sent.and_then(|sent| {
            let (scheme, token) = sent.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        let (_, name, Caller { project, scope }) =
            tokens::named(&app.db, token.ok_or_else(missing)?).await?;
        Ok(Self {
            name: Some(name),
            project,
            scope,
            expires_at: None,
        })
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let Who { project, scope, .. } = Who::from_request_parts(parts, app).await?;
        Ok(Self { project, scope })
    }
}

/// By token, or by being a program on this machine where that is enough: see the setting `local_without_token`.
#[derive(Clone, Debug)]
pub(crate) struct LocalCaller(pub(crate) Caller);

impl FromRequestParts<Shared> for LocalCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let settings = &app.settings;
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let near = peer.is_some_and(|ConnectInfo(peer)| peer.ip().is_loopback());
        let trusted = settings.local_without_token && settings.is_local() && near;
        let says_who = parts.headers.contains_key(header::AUTHORIZATION)
            || session::sent(settings, &parts.headers).is_some();
        if trusted && !says_who {
            return Ok(Self(Caller {
                project: DEFAULT_PROJECT.to_owned(),
                scope: Scope::Write,
            }));
        }
        Caller::from_request_parts(parts, app).await.map(Self)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("\"{}\" is no scope", text.escape_debug())),
        }
    }
}
