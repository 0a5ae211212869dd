//! The catalog as it stands: what is built in, under what an address gives, under a file, under what was put by HTTP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use diskette_wire::entry::{self, Entry};
use serde::Serialize;
use sqlx::FromRow;
use utoipa::ToSchema;

use crate::db::{Database, now};
use crate::problem::{Problem, Result};

/// An entry, and who has made it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) entry: Entry,
    pub(crate) origin: Origin,
}

/// Who has made an entry. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// It comes with the program.
    BuiltIn,
    /// The setting `catalog_url` leads to it.
    Url,
    /// The setting `catalog` leads to it.
    File,
    /// It was put by `PUT /catalog/{name}`.
    Api,
}

/// The catalog.
#[derive(Debug, Default)]
pub(crate) struct List {
    layers: RwLock<Layers>,
}

#[derive(Debug, Default)]
struct Layers {
    url: Option<entry::Entries>,
    file: Option<entry::Entries>,
    /// When the file was changed that was read last.
    read: Option<SystemTime>,
}

/// What comes with the program.
const BUILT_IN: &str = include_str!("catalog.toml");

#[derive(FromRow)]
struct Put {
    name: String,
    /// Nothing, where an entry of another's was taken away.
    entry: Option<String>,
}

impl List {
    /// All entries, by name.
    pub(crate) async fn all(&self, db: &Database) -> Result<Vec<Listed>> {
        let put: Vec<Put> = sqlx::query_as("SELECT name, entry FROM base_entries")
            .fetch_all(db.reader())
            .await?;
        let mut all = self.below();
        for Put { name, entry } in put {
            match entry.and_then(|entry| serde_json::from_str(&entry).ok()) {
                Some(entry) => all.insert(name, (entry, Origin::Api)),
                None => all.remove(&name),
            };
        }
        let listed = all.into_iter().map(|(name, (entry, origin))| Listed {
            name,
            entry,
            origin,
        });
        Ok(listed.collect())
    }

    /// The entry of this name, or of this alias.
    pub(crate) async fn get(&self, db: &Database, name: &str) -> Result<Listed> {
        let all = self.all(db).await?;
        find(&all, name)
            .cloned()
            .ok_or_else(|| Problem::not_found("base image", name))
    }

    fn below(&self) -> BTreeMap<String, (Entry, Origin)> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        let given = [(&layers.url, Origin::Url), (&layers.file, Origin::File)];
        let mut all = BTreeMap::new();
        let wants_built_in = |(layer, _): &(&Option<entry::Entries>, Origin)| {
            layer.as_ref().is_none_or(|(_, built_in)| *built_in)
        };
        if given.iter().all(wants_built_in) {
            // A test reads it: it is sound.
            let (built_in, _) = entry::parsed(BUILT_IN).unwrap_or_default();
            let built_in = built_in.into_iter();
            all.extend(built_in.map(|(name, entry)| (name, (entry, Origin::BuiltIn))));
        }
        for (layer, origin) in given {
            let entries = layer.iter().flat_map(|(entries, _)| entries);
            all.extend(entries.map(|(name, entry)| (name.clone(), (entry.clone(), origin))));
        }
        all
    }

    /// Reads the file, if it has changed since it was read; true where it has.
    pub(crate) fn read_file(&self, path: &Path) -> Result<bool> {
        let wrong = |why: &dyn std::fmt::Display| {
            Problem::bad_request(format!("{}: {why}", path.display()))
        };
        let changed = std::fs::metadata(path).and_then(|facts| facts.modified());
        let changed = changed.map_err(|error| wrong(&error))?;
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        if layers.read == Some(changed) {
            return Ok(false);
        }
        // A file that is wrong is told once.
        layers.read = Some(changed);
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        layers.file = Some(entry::parsed(&text).map_err(|error| wrong(&error))?);
        Ok(true)
    }

    /// Takes what the address gave.
    pub(crate) fn take(&self, text: &str) -> Result<(), String> {
        let entries = entry::parsed(text).map_err(|error| error.to_string())?;
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.url = Some(entries);
        Ok(())
    }

    /// Puts an entry over all others of its name; true where there was none.
    pub(crate) async fn put(&self, db: &Database, name: &str, entry: &Entry) -> Result<bool> {
        let is_new = find(&self.all(db).await?, name).is_none_or(|found| found.name != name);
        let text = serde_json::to_string(entry).map_err(Problem::internal)?;
        self.write(db, name, Some(text)).await?;
        Ok(is_new)
    }

    /// Takes an entry away, whoever has made it.
    pub(crate) async fn remove(&self, db: &Database, name: &str) -> Result<()> {
        let listed = self.get(db, name).await?;
        if self.below().contains_key(&listed.name) {
            return self.write(db, &listed.name, None).await;
        }
        let mut change = db.change().await?;
        sqlx::query("DELETE FROM base_entries WHERE name = ?")
            .bind(&listed.name)
            .execute(change.on())
            .await?;
        Ok(change.commit().await?)
    }

    async fn write(&self, db: &Database, name: &str, entry: Option<String>) -> Result<()> {
        let mut change = db.change().await?;
        sqlx::query(
            "INSERT INTO base_entries (name, entry, updated_at) VALUES (?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET entry = excluded.entry, updated_at = excluded.updated_at",
        )
        .bind(name)
        .bind(entry)
        .bind(now())
        .execute(change.on())
        .await?;
        Ok(change.commit().await?)
    }
}

/// By name, or else by alias.
pub(crate) fn find<'a>(all: &'a [Listed], name: &str) -> Option<&'a Listed> {
    let by_alias = |listed: &&Listed| {
        let mut aliases = listed.entry.aliases.iter();
        aliases.any(|alias| alias.name == name)
    };
    let by_name = all.iter().find(|listed| listed.name == name);
    by_name.or_else(|| all.iter().find(by_alias))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch;

    #[test]
    fn what_is_built_in_is_sound_and_can_be_fetched() {
        let (entries, _) = entry::parsed(BUILT_IN).unwrap();
        assert!(entries.len() >= 7);
        for (name, entry) in &entries {
            assert_ne!(entry.checksum.kind(), "none", "{name}");
            assert!(entry.urls.iter().all(|url| url.starts_with("https://")));
            let checksums = entry.checksum.url.iter();
            assert!({ checksums }.all(|url| url.starts_with("https://")));
            let settings = crate::settings::Settings::of_flags(Default::default()).unwrap();
            fetch::check(&settings, &entry.import(name)).unwrap();
        }
    }

    #[test]
    fn the_old_name_that_lies_leads_to_what_is_there_in_truth() {
        let list = List::default();
        let all: Vec<_> = list
            .below()
            .into_iter()
            .map(|(name, (entry, origin))| Listed {
                name,
                entry,
                origin,
            })
            .collect();
        let found = find(&all, "debian-13.qcow2").unwrap();
        assert_eq!(found.name, "debian-12");
        let mut aliases = found.entry.aliases.iter();
        let alias = aliases
            .find(|alias| alias.name == "debian-13.qcow2")
            .unwrap();
        assert!(alias.note.is_some());
        assert_eq!(
            find(&all, "debian-13").unwrap().entry.version.as_deref(),
            Some("13")
        );
    }
}
