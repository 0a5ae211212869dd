//! The records: SQLite, with many readers and one writer.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Sqlite, Transaction};

use crate::events::Events;

/// The records.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    read: SqlitePool,
    write: SqlitePool,
    events: Events,
}

/// A change, with the events that tell of it: both are there afterwards, or neither.
pub(crate) struct Change {
    transaction: Transaction<'static, Sqlite>,
    events: Events,
    told: bool,
}

/// What is done, once each, in this order. A step that has been released is never changed.
const STEPS: &[&str] = &[
    include_str!("../migrations/0001_catalog.sql"),
    include_str!("../migrations/0002_nodes.sql"),
    include_str!("../migrations/0003_sessions.sql"),
    include_str!("../migrations/0004_base.sql"),
    include_str!("../migrations/0005_lists.sql"),
];

impl Database {
    /// The records in the file at `path`, which is made where there is none.
    pub(crate) async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was answered as done is done, also after the power has failed.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30));
        let write = SqlitePoolOptions::new().max_connections(1);
        let write = write.connect_with(options.clone()).await?;
        migrate(&write).await?;
        let read = SqlitePoolOptions::new().max_connections(4);
        let read = read.connect_with(options.read_only(true)).await?;
        Ok(Self {
            read,
            write,
            events: Events::default(),
        })
    }

    /// Where to read.
    pub(crate) const fn reader(&self) -> &SqlitePool {
        &self.read
    }

    /// Begins a change; there is one at a time.
    pub(crate) async fn change(&self) -> Result<Change, sqlx::Error> {
        Ok(Change {
            transaction: self.write.begin_with("BEGIN IMMEDIATE").await?,
            events: self.events.clone(),
            told: false,
        })
    }

    /// Who wants to hear of changes.
    pub(crate) const fn events(&self) -> &Events {
        &self.events
    }

    /// Ends all use of the file.
    pub(crate) async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

impl Change {
    /// Where to write.
    pub(crate) fn on(&mut self) -> &mut sqlx::SqliteConnection {
        &mut self.transaction
    }

    /// Tells of it.
    pub(crate) async fn tell(
        &mut self,
        project: &str,
        kind: &str,
        subject: &str,
        change: &str,
        data: &serde_json::Value,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO events (at, project, kind, subject, change, data) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(now())
        .bind(project)
        .bind(kind)
        .bind(subject)
        .bind(change)
        .bind(data.to_string())
        .execute(self.on())
        .await?;
        self.told = true;
        Ok(())
    }

    /// Makes it so.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await?;
        if self.told {
            self.events.notify();
        }
        Ok(())
    }
}

/// The present time, as it is recorded.
pub(crate) fn now() -> String {
    stamp(jiff::Timestamp::now())
}

/// A time, as it is recorded.
pub(crate) fn stamp(time: jiff::Timestamp) -> String {
    format!("{time:.6}")
}

async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let done: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let done = usize::try_from(done).unwrap_or(0);
    for (index, step) in STEPS.iter().enumerate().skip(done) {
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(*step).execute(&mut *transaction).await?;
        let version = format!("PRAGMA user_version = {}", index + 1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(version))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_change_that_is_not_committed_tells_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.sqlite");
        let database = Database::open(&path).await.unwrap();
        let count = || async {
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM events");
            count.fetch_one(database.reader()).await.unwrap()
        };
        let mut change = database.change().await.unwrap();
        change
            .tell("p", "image", "1", "created", &json!({}))
            .await
            .unwrap();
        drop(change);
        assert_eq!(count().await, 0);
        let mut change = database.change().await.unwrap();
        change
            .tell("p", "image", "1", "created", &json!({}))
            .await
            .unwrap();
        change.commit().await.unwrap();
        assert_eq!(count().await, 1);
        database.close().await;
        Database::open(&path).await.unwrap().close().await;
    }
}
