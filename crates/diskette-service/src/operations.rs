//! Work that takes its time: recorded, told of, and ended on demand.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskette::engine::{Control, Progress};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::FromRow;
use utoipa::ToSchema;

use crate::auth::{Caller, Scope};
use crate::catalog::number;
use crate::db::{Database, now};
use crate::problem::{CANCELLED, Problem, Result};
use crate::state::{App, Shared};

/// Work that takes its time.
#[derive(Clone, Debug, FromRow)]
struct Row {
    id: String,
    project: String,
    kind: String,
    image: Option<String>,
    state: String,
    done: i64,
    total: Option<i64>,
    request: String,
    result: Option<String>,
    problem: Option<String>,
    created_at: String,
    updated_at: String,
}

/// Work that takes its time, as it is answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) project: String,
    /// `compact`, `flatten`, `resize`, `convert`, `verify`, `publish`, `fetch`, `refresh`.
    pub(crate) kind: String,
    /// The image that it is about.
    pub(crate) image: Option<String>,
    /// `running`, `done`, `failed`, `cancelled`.
    pub(crate) state: String,
    /// Bytes.
    pub(crate) done: i64,
    pub(crate) total: Option<i64>,
    #[schema(value_type = Object)]
    pub(crate) request: Value,
    #[schema(value_type = Option<Object>)]
    pub(crate) result: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub(crate) problem: Option<Value>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// How far an operation is, and whether it is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    pub(crate) cancel: AtomicBool,
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
}

impl Steering {
    pub(crate) fn progress(&self, progress: Progress) {
        self.done.store(progress.done, Ordering::Relaxed);
        self.total.store(progress.total, Ordering::Relaxed);
    }

    /// For the library.
    pub(crate) fn control<'a>(
        &'a self,
        threads: usize,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Control<'a> {
        let mut control = Control::default();
        control.threads = Some(threads);
        control.progress = Some(progress);
        control.cancel = Some(&self.cancel);
        control
    }
}

/// Begins an operation; gives it as it is then.
pub(crate) async fn start<F>(
    app: &Shared,
    caller: &Caller,
    kind: &str,
    image: Option<&str>,
    request: Value,
    work: impl FnOnce(Arc<Steering>) -> F,
) -> Result<Operation>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    let id = uuid::Uuid::now_v7().to_string();
    let time = now();
    let row = Row {
        id: id.clone(),
        project: caller.project.clone(),
        kind: kind.to_owned(),
        image: image.map(str::to_owned),
        state: "running".to_owned(),
        done: 0,
        total: None,
        request: request.to_string(),
        result: None,
        problem: None,
        created_at: time.clone(),
        updated_at: time,
    };
    let mut change = app.db.change().await?;
    sqlx::query(
        "INSERT INTO operations (id, project, kind, image, state, request, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.id)
    .bind(&row.project)
    .bind(&row.kind)
    .bind(&row.image)
    .bind(&row.state)
    .bind(&row.request)
    .bind(&row.created_at)
    .bind(&row.updated_at)
    .execute(change.on())
    .await?;
    let told = json!({"operation": kind, "image": image, "state": "running"});
    change
        .tell(&row.project, "operation", &id, "running", &told)
        .await?;
    change.commit().await?;

    let steering = Arc::new(Steering::default());
    app.add_operation(&id, Arc::clone(&steering));
    let running = work(Arc::clone(&steering));
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let outcome = running.await;
        if let Err(problem) = ended(&app.db, &id, &steering, &outcome).await {
            tracing::error!(
                operation = id,
                detail = problem.detail,
                "its end is not recorded"
            );
        }
        app.remove_operation(&id);
    });
    Ok(row.answered(None))
}

async fn ended(
    db: &Database,
    id: &str,
    steering: &Steering,
    outcome: &Result<Value>,
) -> Result<()> {
    let (state, result, problem) = match outcome {
        Ok(result) => ("done", Some(result.to_string()), None),
        Err(problem) if problem.code == CANCELLED => ("cancelled", None, Some(problem.as_record())),
        Err(problem) => ("failed", None, Some(problem.as_record())),
    };
    let mut change = db.change().await?;
    let project: Option<String> = sqlx::query_scalar(
        "UPDATE operations SET state = ?, result = ?, problem = ?, done = ?, total = ?, updated_at = ? WHERE id = ? RETURNING project",
    )
    .bind(state)
    .bind(result)
    .bind(problem.as_ref().map(Value::to_string))
    .bind(number(steering.done.load(Ordering::Relaxed)))
    .bind(number(steering.total.load(Ordering::Relaxed)))
    .bind(now())
    .bind(id)
    .fetch_optional(change.on())
    .await?;
    if let Some(project) = project {
        let told = json!({"state": state, "problem": problem});
        change.tell(&project, "operation", id, state, &told).await?;
    }
    Ok(change.commit().await?)
}

/// An operation, for whoever may see it.
pub(crate) async fn get(app: &App, caller: &Caller, id: &str) -> Result<Operation> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM operations WHERE id = ?")
        .bind(id)
        .fetch_optional(app.db.reader())
        .await?;
    let seen = |row: &Row| row.project == caller.project || caller.scope == Scope::Admin;
    let row = row
        .filter(seen)
        .ok_or_else(|| Problem::not_found("operation", id))?;
    let steering = app.operation(id);
    Ok(row.answered(steering.as_deref()))
}

/// What is being done with this image.
pub(crate) async fn of_image(
    app: &App,
    caller: &Caller,
    kind: &str,
    image: &str,
) -> Result<Option<Operation>> {
    let id: Option<String> = sqlx::query_scalar(
        "SELECT id FROM operations WHERE kind = ? AND image = ? AND state = 'running' ORDER BY id DESC LIMIT 1",
    )
    .bind(kind)
    .bind(image)
    .fetch_optional(app.db.reader())
    .await?;
    match id {
        Some(id) => get(app, caller, &id).await.map(Some),
        None => Ok(None),
    }
}

/// The last ones.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<Operation>> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT * FROM operations WHERE project = ? ORDER BY id DESC LIMIT 1000")
            .bind(&caller.project)
            .fetch_all(app.db.reader())
            .await?;
    let answered = rows.into_iter().map(|row| {
        let steering = app.operation(&row.id);
        row.answered(steering.as_deref())
    });
    Ok(answered.collect())
}

/// Those that were under way when the service ended are over.
pub(crate) async fn recover(db: &Database) -> Result<()> {
    let problem = Problem::new(CANCELLED, "the service ended meanwhile").as_record();
    let mut change = db.change().await?;
    sqlx::query("UPDATE operations SET state = 'failed', problem = ?, updated_at = ? WHERE state = 'running'")
        .bind(problem.to_string())
        .bind(now())
        .execute(change.on())
        .await?;
    Ok(change.commit().await?)
}

impl Row {
    fn answered(self, steering: Option<&Steering>) -> Operation {
        let parsed = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
        let (done, total) = match steering {
            Some(steering) => (
                number(steering.done.load(Ordering::Relaxed)),
                Some(number(steering.total.load(Ordering::Relaxed))),
            ),
            None => (self.done, self.total),
        };
        Operation {
            id: self.id,
            project: self.project,
            kind: self.kind,
            image: self.image,
            state: self.state,
            done,
            total,
            request: parsed(Some(self.request)).unwrap_or_default(),
            result: parsed(self.result),
            problem: parsed(self.problem),
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}
