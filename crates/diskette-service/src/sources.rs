//! Images that are to be there: a list of names and addresses, of which what is missing is fetched at the start.
//!
//! ```json
//! {
//!   "debian-12.qcow2": "https://example.org/debian-12.qcow2",
//!   "alpine-3": { "url": "https://example.org/alpine.qcow2", "sha256": "...", "mirrors": [] }
//! }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{NewImage, record};
use crate::auth::{Caller, DEFAULT_PROJECT, Scope};
use crate::catalog::name_of_file;
use crate::fault;
use crate::fetch::{self, Import};
use crate::problem::{Problem, Result};
use crate::spool::Spool;
use crate::state::Shared;

/// An entry: an address alone, or all that can be said of an import.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Address(String),
    Import(Box<Import>),
}

/// Begins to fetch what is listed and not there. The service goes on whatever becomes of it.
pub(crate) async fn fetch_missing(app: &Shared) {
    let Some(path) = app
        .settings
        .catalog
        .as_deref()
        .filter(|_| app.settings.auto_download)
    else {
        return;
    };
    let listed = match read(path) {
        Ok(listed) => listed,
        Err(problem) => {
            tracing::error!(detail = problem.detail, "the list of images is not read");
            return;
        }
    };
    let mut begun = 0;
    for (name, import) in listed {
        match fetch_one(app, &name, import).await {
            Ok(true) => {
                tracing::info!(name, "missing: it is fetched");
                begun += 1;
            }
            Ok(false) => tracing::info!(name, "there"),
            Err(problem) => {
                tracing::error!(name, detail = problem.detail, "missing, and not fetched");
            }
        }
    }
    tracing::info!(begun, "the list of images has been gone through");
}

fn read(path: &Path) -> Result<BTreeMap<String, Import>> {
    let wrong = |why: String| Problem::bad_request(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parsed(&text).map_err(|error| wrong(error.to_string()))
}

fn parsed(text: &str) -> serde_json::Result<BTreeMap<String, Import>> {
    let entries: BTreeMap<String, Entry> = serde_json::from_str(text)?;
    let imports = entries.into_iter().map(|(name, entry)| {
        let import = match entry {
            Entry::Import(import) => *import,
            Entry::Address(url) => Import {
                url,
                ..Import::default()
            },
        };
        (name_of_file(&name), import)
    });
    Ok(imports.collect())
}

/// False where an image of the name is there, or on its way.
async fn fetch_one(app: &Shared, name: &str, import: Import) -> Result<bool> {
    let known: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM images WHERE project = ? AND name = ? AND state <> 'failed'",
    )
    .bind(DEFAULT_PROJECT)
    .bind(name)
    .fetch_one(app.db.reader())
    .await?;
    if known > 0 {
        return Ok(false);
    }
    fetch::check(&app.settings, &import)?;
    let caller = Caller {
        project: DEFAULT_PROJECT.to_owned(),
        scope: Scope::Write,
    };
    let new = NewImage {
        name: name.to_owned(),
        file_name: Some(import.file_name()).filter(|name| !name.is_empty()),
        wanted: import.wanted.clone(),
        ..NewImage::default()
    };
    let mut source = json!(import);
    source["type"] = Value::from("url");
    let row = record(app, &caller, new, source, "fetching").await?;
    let spool = Spool::create(&app.store.spool_of(&row.id), None);
    let spool = spool.map_err(|error| fault::of_machine("receiving", &error))?;
    fetch::begin(app, &row, import, spool);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_addresses_or_all_that_can_be_said() {
        let text = r#"{"a.qcow2": "https://x.example/a", "b": {"url": "https://x.example/b", "sha256": "00"}}"#;
        let listed = parsed(text).unwrap();
        assert_eq!(listed["a"].url, "https://x.example/a");
        assert_eq!(listed["b"].wanted.sha256.as_deref(), Some("00"));
        assert!(parsed("[]").is_err());
    }
}
