//! Bearer tokens: 256 random bits, of which the digest is kept.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::FromRow;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use crate::auth::{Caller, DEFAULT_PROJECT, Scope};
use crate::db::{Database, now, stamp};
use crate::problem::{Problem, Result, UNAUTHORIZED};

/// A token, without what it is known by.
#[derive(Debug, FromRow, Serialize, ToSchema)]
pub(crate) struct Token {
    id: String,
    name: String,
    project: String,
    /// `read`, `write` or `admin`.
    #[sqlx(rename = "scopes")]
    scope: String,
    created_at: String,
    expires_at: Option<String>,
    /// When it was last used, itself or by a session that was begun with it; to the minute.
    used_at: Option<String>,
}

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// For people.
    pub(crate) name: String,
    /// Whose images it is for; `default` if it is not said.
    pub(crate) project: Option<String>,
    pub(crate) scope: Scope,
    /// Until when it is of use: RFC 3339.
    pub(crate) expires_at: Option<String>,
}

#[derive(FromRow)]
struct Known {
    name: String,
    project: String,
    scopes: String,
    digest: Vec<u8>,
    expires_at: Option<String>,
    used_at: Option<String>,
}

/// Every token begins so, for those who look for secrets that have leaked.
const PREFIX: &str = "dsk";

/// Makes a token. What it is known by is given once, here.
pub(crate) async fn create(db: &Database, new: &NewToken) -> Result<(String, String)> {
    let expires_at = match &new.expires_at {
        Some(text) => Some(moment(text)?),
        None => None,
    };
    let id = random_hex::<8>()?;
    let secret = random_hex::<32>()?;
    let project = new.project.as_deref().unwrap_or(DEFAULT_PROJECT);
    let mut change = db.change().await?;
    sqlx::query(
        "INSERT INTO tokens (id, name, project, scopes, digest, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&id)
    .bind(&new.name)
    .bind(project)
    .bind(new.scope.to_string())
    .bind(digest(&secret))
    .bind(now())
    .bind(expires_at)
    .execute(change.on())
    .await?;
    change.commit().await?;
    let token = format!("{PREFIX}_{id}_{secret}");
    Ok((id, token))
}

/// The token of whoever has started the service for the first time; `None` at any other time.
pub(crate) async fn first_token(db: &Database) -> Result<Option<String>> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM tokens")
        .fetch_one(db.reader())
        .await?;
    if count > 0 {
        return Ok(None);
    }
    let new = NewToken {
        name: "first".to_owned(),
        project: None,
        scope: Scope::Admin,
        expires_at: None,
    };
    create(db, &new).await.map(|(_, token)| Some(token))
}

/// Who calls by this token: after the token's id and name.
pub(super) async fn named(db: &Database, token: &str) -> Result<(String, String, Caller)> {
    let unknown = || Problem::new(UNAUTHORIZED, "the token is not known, or no longer of use");
    let mut parts = token.split('_');
    let (Some(PREFIX), Some(id), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unknown());
    };
    let found: Option<Known> = sqlx::query_as(
        "SELECT name, project, scopes, digest, expires_at, used_at FROM tokens WHERE id = ?",
    )
    .bind(id)
    .fetch_optional(db.reader())
    .await?;
    let found = found.ok_or_else(unknown)?;
    let right: bool = found.digest.ct_eq(&digest(secret)).into();
    let expired = found.expires_at.is_some_and(|end| end <= now());
    match found.scopes.parse() {
        Ok(scope) if right && !expired => {
            used(db, id, found.used_at.as_deref());
            let project = found.project;
            Ok((id.to_owned(), found.name, Caller { project, scope }))
        }
        _ => Err(unknown()),
    }
}

/// Records that a token is used, unless that was within the last minute. Nobody waits for it.
pub(super) fn used(db: &Database, id: &str, before: Option<&str>) {
    let minute = jiff::SignedDuration::from_mins(1);
    let ago = stamp(jiff::Timestamp::now() - minute);
    if before.is_some_and(|before| before > ago.as_str()) {
        return;
    }
    let (db, id) = (db.clone(), id.to_owned());
    tokio::spawn(async move {
        if let Err(error) = record_use(&db, &id, &ago).await {
            tracing::warn!(token = id, %error, "that it is used is not recorded");
        }
    });
}

/// Of several requests at once the first does.
async fn record_use(db: &Database, id: &str, ago: &str) -> Result<(), sqlx::Error> {
    let mut change = db.change().await?;
    sqlx::query("UPDATE tokens SET used_at = ? WHERE id = ? AND (used_at IS NULL OR used_at <= ?)")
        .bind(now())
        .bind(id)
        .bind(ago)
        .execute(change.on())
        .await?;
    change.commit().await
}

/// All tokens.
pub(crate) async fn list(db: &Database) -> Result<Vec<Token>> {
    let all = sqlx::query_as(
        "SELECT id, name, project, scopes, created_at, expires_at, used_at FROM tokens ORDER BY created_at, id",
    );
    Ok(all.fetch_all(db.reader()).await?)
}

/// Makes a token useless.
pub(crate) async fn revoke(db: &Database, id: &str) -> Result<()> {
    let mut change = db.change().await?;
    let gone = sqlx::query("DELETE FROM tokens WHERE id = ?").bind(id);
    let gone = gone.execute(change.on()).await?.rows_affected();
    change.commit().await?;
    match gone {
        0 => Err(Problem::not_found("token", id)),
        _ => Ok(()),
    }
}

fn moment(text: &str) -> Result<String> {
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let parsed = parsed.map_err(|_| Problem::bad_request("expires_at is no time of RFC 3339"))?;
    Ok(stamp(parsed))
}

pub(super) fn digest(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

pub(super) fn random_hex<const LEN: usize>() -> Result<String> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(Problem::internal)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
