//! What is recorded of nodes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::types::Json;
use sqlx::{FromRow, Sqlite};
use utoipa::ToSchema;

use crate::db::{Database, now};
use crate::launch::properties::{Machine, Preset};
use crate::launch::seed::CloudInit;
use crate::problem::{NAME_TAKEN, NOT_READY, PRECONDITION_FAILED, Problem, Result};

/// A machine of an image.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub(crate) struct Node {
    pub(crate) id: String,
    #[serde(skip)]
    pub(crate) project: String,
    pub(crate) name: String,
    /// The image's id.
    pub(crate) image: String,
    #[schema(value_type = Machine)]
    pub(crate) machine: Json<Machine>,
    #[schema(value_type = Option<CloudInit>)]
    pub(crate) cloud_init: Option<Json<CloudInit>>,
    /// Bytes of its disk.
    pub(crate) disk_size: i64,
    /// `defined`, `starting`, `running`, `paused`, `stopping`, `stopped` or `crashed`.
    pub(crate) state: String,
    /// Why, where there is more to say.
    pub(crate) reason: Option<String>,
    /// Rises with each change; its ETag.
    pub(crate) revision: i64,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// A node to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNode {
    /// Letters, digits, `-`, `_` and `.`; at most 64.
    pub(crate) name: String,
    /// The image's id, or its name.
    pub(crate) image: String,
    /// The kind of guest; without it and `machine`, the image's content tells.
    pub(crate) preset: Option<Preset>,
    /// What it consists of: overrides single properties of the preset.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) machine: Option<serde_json::Map<String, Value>>,
    pub(crate) cloud_init: Option<CloudInit>,
    /// Bytes of its disk, where it is to be larger than the image's.
    pub(crate) disk_size: Option<u64>,
    /// Whether it starts at once.
    #[serde(default)]
    pub(crate) start: bool,
}

/// What of an image matters to a node.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Base {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) format: Option<String>,
    pub(crate) source_format: Option<String>,
    pub(crate) virtual_size: Option<i64>,
    pub(crate) blob: Option<String>,
    pub(crate) size: Option<i64>,
    pub(crate) properties: Json<serde_json::Map<String, Value>>,
}

impl Base {
    /// The image of this id, or the present one of this name, if it can be used.
    pub(crate) async fn ready(db: &Database, project: &str, id: &str) -> Result<Self> {
        let base: Option<Self> = sqlx::query_as(
            "SELECT i.id, i.name, i.kind, i.state, i.format, i.source_format, i.virtual_size, i.blob, i.properties, b.size \
             FROM images i LEFT JOIN blobs b ON b.sha256 = i.blob \
             WHERE i.project = ?1 AND (i.id = ?2 OR (i.name = ?2 AND i.current = 1)) ORDER BY i.id = ?2 DESC LIMIT 1",
        )
        .bind(project)
        .bind(id)
        .fetch_optional(db.reader())
        .await?;
        let base = base.ok_or_else(|| Problem::not_found("image", id))?;
        if base.state != "ready" || base.blob.is_none() {
            let detail = format!(
                "the image \"{}\" is in the state `{}`",
                base.name, base.state
            );
            return Err(Problem::new(NOT_READY, detail));
        }
        Ok(base)
    }

    /// Whether it is install media.
    pub(crate) fn is_iso(&self) -> bool {
        self.kind == "iso"
    }
}

impl Node {
    /// The node of this id, or of this name.
    pub(crate) async fn load(db: &Database, project: &str, id: &str) -> Result<Self> {
        sqlx::query_as("SELECT * FROM nodes WHERE project = ?1 AND (id = ?2 OR name = ?2)")
            .bind(project)
            .bind(id)
            .fetch_optional(db.reader())
            .await?
            .ok_or_else(|| Problem::not_found("node", id))
    }

    /// All nodes of a project, by name.
    pub(crate) async fn all(db: &Database, project: &str) -> Result<Vec<Self>> {
        let all = sqlx::query_as("SELECT * FROM nodes WHERE project = ? ORDER BY name");
        Ok(all.bind(project).fetch_all(db.reader()).await?)
    }

    /// All nodes there are.
    pub(crate) async fn every(db: &Database) -> Result<Vec<Self>> {
        Ok(sqlx::query_as("SELECT * FROM nodes ORDER BY id")
            .fetch_all(db.reader())
            .await?)
    }

    /// Records a new one, and that its image is in use.
    pub(crate) async fn insert(&self, db: &Database) -> Result<()> {
        let mut change = db.change().await?;
        let taken: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM nodes WHERE project = ? AND name = ?")
                .bind(&self.project)
                .bind(&self.name)
                .fetch_optional(change.on())
                .await?;
        if taken.is_some() {
            return Err(Problem::new(
                NAME_TAKEN,
                format!("there is a node \"{}\"", self.name),
            ));
        }
        // Between the look at the image and now it may have gone.
        let ready: Option<i64> =
            sqlx::query_scalar("SELECT 1 FROM images WHERE id = ? AND state = 'ready'")
                .bind(&self.image)
                .fetch_optional(change.on())
                .await?;
        if ready.is_none() {
            return Err(Problem::not_found("image", &self.image));
        }
        sqlx::query(
            "INSERT INTO nodes (id, project, name, image, machine, cloud_init, disk_size, state, created_at, updated_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&self.id)
        .bind(&self.project)
        .bind(&self.name)
        .bind(&self.image)
        .bind(&self.machine)
        .bind(&self.cloud_init)
        .bind(self.disk_size)
        .bind(&self.state)
        .bind(&self.created_at)
        .bind(&self.updated_at)
        .execute(change.on())
        .await?;
        sqlx::query("INSERT INTO image_uses (image, used_by) VALUES (?, ?)")
            .bind(&self.image)
            .bind(format!("node {}", self.name))
            .execute(change.on())
            .await?;
        let data = json!({"name": self.name, "state": self.state});
        change
            .tell(&self.project, "node", &self.id, "created", &data)
            .await?;
        Ok(change.commit().await?)
    }

    /// Records its state.
    pub(crate) async fn settle(
        &self,
        db: &Database,
        state: &str,
        reason: Option<&str>,
    ) -> Result<()> {
        let query = sqlx::query(
            "UPDATE nodes SET state = ?, reason = ?, updated_at = ?, revision = revision + 1 WHERE id = ?",
        );
        let query = query.bind(state).bind(reason).bind(now()).bind(&self.id);
        let told = json!({"name": self.name, "state": state, "reason": reason});
        self.record(db, query, "state", told).await.map(drop)
    }

    /// Records what it consists of from its next start on, unless it has been changed since it was read.
    pub(crate) async fn rebuild(&self, db: &Database, machine: &Machine) -> Result<()> {
        let query = sqlx::query(
            "UPDATE nodes SET machine = ?, updated_at = ?, revision = revision + 1 WHERE id = ? AND revision = ?",
        );
        let query = query.bind(Json(machine)).bind(now()).bind(&self.id);
        let told = json!({"name": self.name});
        match self
            .record(db, query.bind(self.revision), "changed", told)
            .await?
        {
            0 => Err(Problem::new(
                PRECONDITION_FAILED,
                "it has just been changed",
            )),
            _ => Ok(()),
        }
    }

    /// Runs a query that changes the record, and tells of it; gives how many records that were.
    async fn record(
        &self,
        db: &Database,
        query: Query<'_, Sqlite, SqliteArguments>,
        change: &str,
        told: Value,
    ) -> Result<u64> {
        let mut on = db.change().await?;
        let changed = query.execute(on.on()).await?.rows_affected();
        if changed > 0 {
            on.tell(&self.project, "node", &self.id, change, &told)
                .await?;
        }
        on.commit().await?;
        Ok(changed)
    }

    /// Strikes it from the records.
    pub(crate) async fn delete(&self, db: &Database) -> Result<()> {
        let mut change = db.change().await?;
        sqlx::query("DELETE FROM image_uses WHERE image = ? AND used_by = ?")
            .bind(&self.image)
            .bind(format!("node {}", self.name))
            .execute(change.on())
            .await?;
        sqlx::query("DELETE FROM nodes WHERE id = ?")
            .bind(&self.id)
            .execute(change.on())
            .await?;
        change
            .tell(
                &self.project,
                "node",
                &self.id,
                "deleted",
                &json!({"name": self.name}),
            )
            .await?;
        Ok(change.commit().await?)
    }

    /// The id as QEMU has it.
    pub(crate) fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::try_parse(&self.id).unwrap_or_default()
    }
}
