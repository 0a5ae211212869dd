//! A base image that somebody has put into the folder of images by hand.

use std::sync::Arc;

use diskette::engine::Control;
use serde_json::{Value, json};

use super::fetching::{fetch, ourselves, set_aliases};
use super::list::Listed;
use super::presence;
use crate::api::blocking;
use crate::auth::DEFAULT_PROJECT;
use crate::catalog::{New, Row, name_of_file};
use crate::db::now;
use crate::fault;
use crate::fetch::promised;
use crate::ingest::sha512_of_file;
use crate::problem::{
    CHECKSUM_MISMATCH, CORRUPT, NESTED_FORMAT, Problem, Result, TRUNCATED, UNSUPPORTED_FORMAT,
};
use crate::settings::AutoDownload;
use crate::state::Shared;

/// The entry that a file is known by.
#[derive(Debug)]
pub(crate) struct Adopted(Listed);

/// The base image that a file of this name is, if that is not there yet.
pub(crate) async fn adopted_by(app: &Shared, file: &str) -> Result<Option<Adopted>> {
    let all = app.bases.list.all(&app.db).await?;
    let by_alias = |listed: &&Listed| {
        let mut aliases = listed.entry.aliases.iter();
        aliases.any(|alias| alias.name == file)
    };
    let by_address = |listed: &&Listed| listed.entry.import("").file_name() == file;
    let by_name = |listed: &&Listed| listed.name == name_of_file(file);
    let found = all.iter().find(by_alias);
    let found = found.or_else(|| all.iter().find(by_address));
    let Some(found) = found.or_else(|| all.iter().find(by_name)) else {
        return Ok(None);
    };
    let there = presence::one(app, DEFAULT_PROJECT, found.clone()).await?;
    let is_free = there.image.is_none() && there.fetching.is_none();
    Ok(is_free.then(|| Adopted(found.clone())))
}

impl Adopted {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// As the catalog has it; a digest that is pinned is held against the file.
    pub(crate) fn describe(&self, new: &mut New) {
        let Listed { name, entry, .. } = &self.0;
        new.name = name.clone();
        new.display_name = entry.title.clone();
        new.description = entry.description.clone();
        new.tags = vec!["base".to_owned()];
        new.os = entry.os.clone();
        new.properties = Value::from(entry.properties());
        new.wanted.sha256 = entry.checksum.sha256.clone();
        new.wanted.sha512 = entry.checksum.sha512.clone();
    }

    /// Whether the file itself is at fault.
    pub(crate) fn is_bad(problem: &Problem) -> bool {
        let bad = [
            CORRUPT,
            TRUNCATED,
            CHECKSUM_MISMATCH,
            NESTED_FORMAT,
            UNSUPPORTED_FORMAT,
        ];
        bad.contains(&problem.code)
    }

    /// Aliases lead to it; where others may be asked, it is looked whether it is the newest one.
    pub(crate) async fn settle(&self, app: &Shared, row: &Row) -> Result<()> {
        set_aliases(app, row, &self.0).await?;
        let pinned = &self.0.entry.checksum;
        let mut digest = pinned.sha256.clone().or_else(|| pinned.sha512.clone());
        let mut newer = None;
        if digest.is_none() && app.settings.auto_download != AutoDownload::None {
            (digest, newer) = self.held_against_publisher(app, row).await?;
        }
        let kind = if digest.is_some() {
            "verified"
        } else {
            "checked"
        };
        tracing::info!(name = self.0.name, kind, newer, "adopted as a base image");
        let mut change = app.db.change().await?;
        sqlx::query(
            "INSERT INTO base_state (project, name, digest, newer, checked_at) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (project, name) DO UPDATE SET digest = excluded.digest, newer = excluded.newer, \
             checked_at = excluded.checked_at, etag = NULL, url = NULL",
        )
        .bind(&row.project)
        .bind(&self.0.name)
        .bind(&digest)
        .bind(&newer)
        .bind(now())
        .execute(change.on())
        .await?;
        let told = json!({"state": "present", "image": row.id, "adopted": true, "newer": newer});
        change
            .tell(&row.project, "catalog", &self.0.name, "adopted", &told)
            .await?;
        Ok(change.commit().await?)
    }

    /// The publisher's digest, if it is that of the file; and what the publisher has else. A rolling one may be an older one.
    async fn held_against_publisher(
        &self,
        app: &Shared,
        row: &Row,
    ) -> Result<(Option<String>, Option<String>)> {
        let import = self.0.entry.import(&self.0.name);
        let shared = Arc::clone(app);
        let sums = blocking(move || promised(&shared.settings, &import)).await;
        let digest = match sums {
            Ok(Some(sums)) => sums.digest,
            Ok(None) => return Ok((None, None)),
            Err(Problem { detail, .. }) => {
                tracing::warn!(
                    name = self.0.name,
                    detail,
                    "not held against its publisher's digest"
                );
                return Ok((None, None));
            }
        };
        let found: (Option<String>, Option<String>) =
            sqlx::query_as("SELECT source_sha256, blob FROM images WHERE id = ?")
                .bind(&row.id)
                .fetch_one(app.db.reader())
                .await?;
        let own = match found {
            // What was stored is what was there.
            (Some(own), Some(blob)) if own == blob && digest.len() == 128 => {
                let path = app.store.blob(&blob);
                let hashed = blocking(move || {
                    sha512_of_file(&path, &Control::default())
                        .map_err(|error| fault::of_machine("hashing", &error))
                });
                Some(hashed.await?)
            }
            (own, _) => own.filter(|own| own.len() == digest.len()),
        };
        Ok(match own {
            Some(own) if own.eq_ignore_ascii_case(&digest) => (Some(digest), None),
            Some(_) => (None, Some(format!("the checksum file has {digest}"))),
            None => (None, None),
        })
    }

    /// It is fetched instead, where that is wanted.
    pub(crate) async fn retry(&self, app: &Shared, problem: &Problem) -> Result<()> {
        let mut change = app.db.change().await?;
        let told = json!({"problem": problem.as_record()});
        change
            .tell(
                DEFAULT_PROJECT,
                "catalog",
                &self.0.name,
                "quarantined",
                &told,
            )
            .await?;
        change.commit().await?;
        let wanted = match &app.settings.auto_download {
            AutoDownload::None => false,
            AutoDownload::All => true,
            AutoDownload::Named(names) => names.contains(&self.0.name),
        };
        if wanted {
            fetch(app, &ourselves(), self.0.clone(), false).await?;
        }
        Ok(())
    }
}
