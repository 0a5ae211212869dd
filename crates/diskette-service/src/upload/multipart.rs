//! Forms as browsers and `curl -F` send them: files in fields named `image`, and text around them, in any order.

use std::sync::Arc;

use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use diskette_wire::tags;
use serde_json::json;

use super::receive::{GiveUp, Receiver};
use crate::catalog::{self, New, Row, label, name_of_file};
use crate::ingest::{Files, Job, Wanted};
use crate::problem::{NAME_TAKEN, Problem, Result, TOO_LARGE, TRUNCATED};
use crate::spool::Spool;
use crate::state::Shared;
use crate::work::{self, Outcome};

/// What a form has said and sent.
pub(crate) struct Form {
    pub(crate) row: Row,
    pub(crate) outcome: Outcome,
}

/// Most bytes of a text field.
const LONGEST_TEXT: usize = 64 << 10;
/// Most files of one form.
const MOST_FILES: usize = 64;

/// The text fields, as far as they have come.
#[derive(Default)]
struct Said {
    name: Option<String>,
    display_name: Option<String>,
    description: Option<String>,
    tags: Vec<String>,
    wanted: Wanted,
}

/// Reads a form, all of which has `at_most` bytes; the image is converted while it comes.
pub(crate) async fn read_form(
    app: &Shared,
    project: &str,
    at_most: Option<u64>,
    mut form: Multipart,
) -> Result<Form> {
    let mut said = Said::default();
    let mut begun: Option<Begun> = None;
    while let Some(field) = form.next_field().await.map_err(broken_off)? {
        match (field.name(), &mut begun) {
            (Some("image"), None) => {
                begun = Some(Begun::of(app, project, &said, at_most, field).await?);
            }
            (Some("image"), Some(begun)) => begun.another(app, field).await?,
            (Some(name), _) => {
                let name = name.to_owned();
                said.take(&name, text_of(field).await?)?;
            }
            (None, _) => {}
        }
    }
    let Some(begun) = begun else {
        return Err(Problem::bad_request(
            "the form has no file in a field `image`",
        ));
    };
    begun.finish(app, said).await
}

/// An image of which the file is on its way, or has come.
struct Begun {
    row: Row,
    job: Arc<Job>,
    outcome: Outcome,
    unfinished: GiveUp,
    files: usize,
}

impl Begun {
    async fn of(
        app: &Shared,
        project: &str,
        said: &Said,
        at_most: Option<u64>,
        field: Field<'_>,
    ) -> Result<Self> {
        let file = field.file_name().unwrap_or("image").to_owned();
        let row = record(app, project, said, &file).await?;
        let job = job(app, &row, said.wanted.clone())?;
        if let Some(bytes) = at_most {
            job.spool.expect_at_most(bytes);
        }
        let outcome = work::start(app, Arc::clone(&job));
        let begun = Self {
            row,
            unfinished: GiveUp(Some(Arc::clone(&job))),
            job,
            outcome,
            files: 1,
        };
        let spool = Arc::clone(&begun.job.spool);
        match receive(app, &begun.job, &spool, field).await {
            Ok(()) => Ok(begun),
            Err(problem) => Err(begun.unfinished.because(problem)),
        }
    }

    /// One more file of the same image.
    async fn another(&mut self, app: &Shared, field: Field<'_>) -> Result<()> {
        self.files += 1;
        if self.files > MOST_FILES {
            return Err(Problem::bad_request(
                "more than 64 files make up no image here",
            ));
        }
        let name = field.file_name().unwrap_or_default().to_owned();
        let path = app
            .store
            .spool()
            .join(format!("{}.{}.part", self.row.id, self.files));
        let spool = Spool::create(&path, None);
        let spool = spool.map_err(|error| crate::fault::of_machine("receiving", &error))?;
        self.job.files.add(&name, Arc::clone(&spool));
        receive(app, &self.job, &spool, field).await
    }

    async fn finish(self, app: &Shared, said: Said) -> Result<Form> {
        // Text may stand behind the file: it counts, where it comes in time.
        let promised = said.wanted.sha256.clone();
        let row = describe(app, &self.row, &said).await;
        self.job.promise(promised);
        self.job.files.close();
        let row = match row {
            Ok(row) => row,
            Err(problem) => return Err(self.unfinished.because(problem)),
        };
        self.unfinished.defuse();
        Ok(Form {
            row,
            outcome: self.outcome,
        })
    }
}

async fn receive(
    app: &Shared,
    job: &Arc<Job>,
    spool: &Arc<Spool>,
    mut field: Field<'_>,
) -> Result<()> {
    let mut receiver = Receiver::new(app, job, spool);
    while let Some(piece) = field.chunk().await.map_err(broken_off)? {
        receiver.take(piece).await?;
    }
    receiver.finish().await
}

/// A name that is taken gets the time behind it, as SandLabX's names have it.
async fn record(app: &Shared, project: &str, said: &Said, file: &str) -> Result<Row> {
    let mut new = New {
        project: project.to_owned(),
        name: match &said.name {
            Some(name) => name.clone(),
            None => name_of_file(file),
        },
        display_name: said.display_name.clone(),
        description: said.description.clone(),
        tags: said.tags.clone(),
        properties: json!({}),
        wanted: said.wanted.clone(),
        source: json!({"type": "upload"}),
        source_name: Some(file.to_owned()),
        state: "receiving",
        ..New::default()
    };
    let mut change = app.db.change().await?;
    match catalog::create(app, &mut change, new.clone()).await {
        Err(problem) if problem.code == NAME_TAKEN && said.name.is_none() => {
            let millis = jiff::Timestamp::now().as_millisecond();
            new.name = format!("{}_{millis}", new.name);
            let row = catalog::create(app, &mut change, new).await?;
            change.commit().await?;
            Ok(row)
        }
        Err(problem) => Err(problem),
        Ok(row) => {
            change.commit().await?;
            Ok(row)
        }
    }
}

/// What the image is called by fields that came behind the file.
async fn describe(app: &Shared, row: &Row, said: &Said) -> Result<Row> {
    let mut row = row.clone();
    if let Some(name) = &said.name {
        row.name.clone_from(name);
    }
    row.display_name.clone_from(&said.display_name);
    row.description.clone_from(&said.description);
    row.tags = json!(said.tags).to_string();
    let mut change = app.db.change().await?;
    let taken: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM images WHERE project = ? AND name = ? AND id <> ? AND state <> 'failed'",
    )
    .bind(&row.project)
    .bind(&row.name)
    .bind(&row.id)
    .fetch_one(change.on())
    .await?;
    if taken > 0 && !said.wanted.overwrite {
        let detail = format!("the name \"{}\" is taken", row.name);
        return Err(Problem::new(NAME_TAKEN, detail));
    }
    sqlx::query("UPDATE images SET name = ?, display_name = ?, description = ?, tags = ?, version = max(version, ?) WHERE id = ?")
        .bind(&row.name)
        .bind(&row.display_name)
        .bind(&row.description)
        .bind(&row.tags)
        .bind(taken + 1)
        .bind(&row.id)
        .execute(change.on())
        .await?;
    change.commit().await?;
    Ok(row)
}

fn job(app: &Shared, row: &Row, wanted: Wanted) -> Result<Arc<Job>> {
    let spool = Spool::create(&app.store.spool_of(&row.id), None);
    let spool = spool.map_err(|error| crate::fault::of_machine("receiving", &error))?;
    Ok(Arc::new(Job::new(
        row,
        wanted,
        spool,
        Arc::new(Files::default()),
    )))
}

impl Said {
    fn take(&mut self, name: &str, text: String) -> Result<()> {
        let on = ["true", "on", "1", "yes"].contains(&text.as_str());
        match name {
            "name" if !text.is_empty() => self.name = Some(label(&text)?),
            "displayName" | "display_name" => self.display_name = Some(text),
            "description" => self.description = Some(text),
            "tags" => self.tags = tags::listed(&text),
            "sha256" if !text.is_empty() => self.wanted.sha256 = Some(text.trim().to_lowercase()),
            "format" if !text.is_empty() => self.wanted.format = Some(text),
            "disk" if !text.is_empty() => self.wanted.disk = Some(text),
            "overwrite" => self.wanted.overwrite = on,
            "compress" => self.wanted.compress = on,
            "drop_snapshots" => self.wanted.drop_snapshots = on,
            "strict" => self.wanted.strict = on,
            // Other clients send what they like.
            _ => {}
        }
        Ok(())
    }
}

async fn text_of(mut field: Field<'_>) -> Result<String> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(broken_off)? {
        if bytes.len() + piece.len() > LONGEST_TEXT {
            return Err(Problem::new(
                TOO_LARGE,
                "a text field is longer than 64 KiB",
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| Problem::bad_request("a text field is not UTF-8"))
}

fn broken_off(error: MultipartError) -> Problem {
    Problem::new(
        TRUNCATED,
        format!("the form broke off: {}", error.body_text()),
    )
}
