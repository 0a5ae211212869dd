//! Sessions of the page: a cookie, and a word that the page keeps for itself.
//!
//! The cookie says who calls. Browsers send it by themselves, and to every port of this machine; so what changes anything
//! wants the word as well, in the header `X-CSRF-Token`. The word is given once, to the page that has logged in.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::tokens::{self, digest, random_hex};
use crate::auth::{Caller, DEFAULT_PROJECT, Scope};
use crate::db::{now, stamp};
use crate::problem::{CSRF_REFUSED, Problem, Result, UNAUTHORIZED};
use crate::settings::Settings;
use crate::state::App;

/// By what a session is begun: one of both.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    /// A token.
    token: Option<String>,
    /// The code in the address that is printed at the start. It is good once, for ten minutes.
    code: Option<String>,
}

/// Who calls.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Who {
    /// The name of the token; none for a session by the printed address.
    pub(crate) name: Option<String>,
    pub(crate) project: String,
    pub(crate) scope: Scope,
    /// The end of the session, if it is one.
    pub(crate) expires_at: Option<String>,
}

/// A session that has begun.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
pub(crate) struct Begun {
    #[serde(flatten)]
    who: Who,
    /// To be sent as `X-CSRF-Token` with all that changes anything. It is shown this once.
    csrf: String,
}

#[derive(FromRow)]
struct Kept {
    csrf: Vec<u8>,
    expires_at: String,
    token: Option<String>,
    name: Option<String>,
    project: Option<String>,
    scopes: Option<String>,
    token_expires_at: Option<String>,
    used_at: Option<String>,
}

/// What the page sends beside the cookie.
const CSRF: &str = "x-csrf-token";

/// Begins a session; gives its cookie, too.
pub(crate) async fn begin(app: &App, login: &Login) -> Result<(HeaderValue, Begun)> {
    let (who, token) = match (&login.token, &login.code) {
        (Some(token), None) => {
            let (id, name, caller) = tokens::named(&app.db, token.trim()).await?;
            (who(Some(name), caller), Some(id))
        }
        (None, Some(code)) => {
            app.codes.redeem(code)?;
            (who(None, local()), None)
        }
        _ => return Err(Problem::bad_request("a token or a code is wanted")),
    };
    let (secret, csrf) = (random_hex::<32>()?, random_hex::<32>()?);
    let seconds = app.settings.session_expiry;
    let span = jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    let end = jiff::Timestamp::now().checked_add(span);
    let expires_at = stamp(end.unwrap_or(jiff::Timestamp::MAX));
    let mut change = app.db.change().await?;
    sqlx::query("DELETE FROM sessions WHERE expires_at <= ?")
        .bind(now())
        .execute(change.on())
        .await?;
    sqlx::query(
        "INSERT INTO sessions (digest, csrf, token, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(digest(&secret))
    .bind(digest(&csrf))
    .bind(token)
    .bind(now())
    .bind(&expires_at)
    .execute(change.on())
    .await?;
    change.commit().await?;
    let who = Who {
        expires_at: Some(expires_at),
        ..who
    };
    let cookie = cookie(&app.settings, &secret, seconds)?;
    Ok((cookie, Begun { who, csrf }))
}

/// Ends the caller's session, if it has one; gives the cookie that takes it from the browser.
pub(crate) async fn end(app: &App, headers: &HeaderMap) -> Result<HeaderValue> {
    if let Some(secret) = sent(&app.settings, headers) {
        let mut change = app.db.change().await?;
        let gone = sqlx::query("DELETE FROM sessions WHERE digest = ?").bind(digest(secret));
        gone.execute(change.on()).await?;
        change.commit().await?;
    }
    cookie(&app.settings, "", 0)
}

/// Who calls by the cookie.
pub(super) async fn known(app: &App, parts: &Parts) -> Result<Who> {
    let missing = || {
        Problem::new(
            UNAUTHORIZED,
            "no bearer token was sent, and no session's cookie",
        )
    };
    let secret = sent(&app.settings, &parts.headers).ok_or_else(missing)?;
    let kept: Option<Kept> = sqlx::query_as(
        "SELECT s.csrf, s.expires_at, s.token, t.name, t.project, t.scopes, t.expires_at AS token_expires_at, t.used_at \
         FROM sessions s LEFT JOIN tokens t ON t.id = s.token WHERE s.digest = ?",
    )
    .bind(digest(secret))
    .fetch_optional(app.db.reader())
    .await?;
    let over = || Problem::new(UNAUTHORIZED, "the session is over: log in again");
    let kept = kept.ok_or_else(over)?;
    let now = now();
    let ends = [Some(&kept.expires_at), kept.token_expires_at.as_ref()];
    if ends.into_iter().flatten().any(|end| *end <= now) {
        return Err(over());
    }
    if !parts.method.is_safe() {
        from_our_page(&kept, &parts.headers)?;
    }
    let caller = match (kept.token, kept.project, kept.scopes) {
        (None, ..) => local(),
        (Some(token), Some(project), Some(scopes)) => {
            tokens::used(&app.db, &token, kept.used_at.as_deref());
            let scope = scopes.parse().map_err(Problem::internal)?;
            Caller { project, scope }
        }
        _ => return Err(over()),
    };
    let expires_at = Some(kept.expires_at);
    Ok(Who {
        expires_at,
        ..who(kept.name, caller)
    })
}

fn from_our_page(kept: &Kept, headers: &HeaderMap) -> Result<()> {
    let word = headers.get(CSRF).and_then(|word| word.to_str().ok());
    match word {
        Some(word) if kept.csrf.ct_eq(&digest(word)).into() => Ok(()),
        Some(_) => Err(Problem::new(
            CSRF_REFUSED,
            "X-CSRF-Token is not the session's",
        )),
        None => Err(Problem::new(CSRF_REFUSED, "X-CSRF-Token is missing")),
    }
}

fn who(name: Option<String>, Caller { project, scope }: Caller) -> Who {
    Who {
        name,
        project,
        scope,
        expires_at: None,
    }
}

/// Who reads what is printed at the start has the service's files in hand.
fn local() -> Caller {
    Caller {
        project: DEFAULT_PROJECT.to_owned(),
        scope: Scope::Admin,
    }
}

/// Cookies know no ports: services of one machine are told apart by the name.
fn name(settings: &Settings) -> String {
    match settings.behind_tls {
        true => "__Host-diskette".to_owned(),
        false => format!("diskette-{}", settings.listen.port()),
    }
}

fn cookie(settings: &Settings, secret: &str, seconds: u64) -> Result<HeaderValue> {
    let name = name(settings);
    let secure = if settings.behind_tls { "; Secure" } else { "" };
    let text =
        format!("{name}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).map_err(Problem::internal)
}

pub(super) fn sent<'a>(settings: &Settings, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = name(settings);
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// How long the printed address is good.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// The code in the address that is printed at the start.
#[derive(Debug, Default)]
pub(crate) struct Codes(Mutex<Option<(Vec<u8>, Instant)>>);

impl Codes {
    /// A new one; the one before is good no longer.
    pub(crate) fn issue(&self) -> Result<String> {
        let code = random_hex::<24>()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((digest(&code), Instant::now() + GOOD_FOR));
        Ok(code)
    }

    fn redeem(&self, code: &str) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let right = kept.as_ref().is_some_and(|(known, until)| {
            known.ct_eq(&digest(code)).into() && *until > Instant::now()
        });
        if !right {
            let why = "the code is not known, or no longer good: log in with a token, or start the service again";
            return Err(Problem::new(UNAUTHORIZED, why));
        }
        *kept = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Given;

    #[test]
    fn a_code_is_good_once_and_a_wrong_one_takes_nothing_away() {
        let codes = Codes::default();
        assert!(codes.redeem("").is_err());
        let code = codes.issue().unwrap();
        assert!(codes.redeem("0").is_err());
        codes.redeem(&code).unwrap();
        assert!(codes.redeem(&code).is_err());
    }

    #[test]
    fn behind_tls_the_cookie_is_secure_and_bound_to_the_host() {
        let settings = |behind_tls| {
            let given = Given {
                behind_tls,
                ..Given::default()
            };
            Settings::of_flags(given).unwrap()
        };
        let text = |behind_tls| {
            let cookie = cookie(&settings(behind_tls), "s", 9).unwrap();
            cookie.to_str().unwrap().to_owned()
        };
        assert_eq!(
            text(None),
            "diskette-3001=s; Path=/; Max-Age=9; HttpOnly; SameSite=Strict"
        );
        assert_eq!(
            text(Some(true)),
            "__Host-diskette=s; Path=/; Max-Age=9; HttpOnly; SameSite=Strict; Secure"
        );
    }
}
