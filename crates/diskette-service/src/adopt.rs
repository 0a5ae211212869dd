//! A folder of images from before: each file becomes an image, once. The files stay as they are.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::blocking;
use crate::auth::DEFAULT_PROJECT;
use crate::catalog::{self, New, name_of_file};
use crate::fault;
use crate::ingest::{Files, Job, Wanted};
use crate::problem::{NAME_TAKEN, Problem, Result};
use crate::spool::Spool;
use crate::state::Shared;
use crate::work;

/// A file that may be an image.
struct Found {
    path: PathBuf,
    name: String,
    size: u64,
    source: Value,
}

/// Takes in what is new in the folder; gives the ids of the images.
pub(crate) async fn adopt(app: &Shared) -> Result<Vec<String>> {
    let Some(folder) = app.settings.images.clone() else {
        return Ok(Vec::new());
    };
    let found = blocking(move || {
        let listed = listed(&folder);
        listed.map_err(|error| {
            fault::of_machine(&format!("reading the folder {}", folder.display()), &error)
        })
    });
    let mut adopted = Vec::new();
    for file in found.await? {
        let source = file.source.to_string();
        let known: i64 = sqlx::query_scalar("SELECT count(*) FROM images WHERE source = ?")
            .bind(&source)
            .fetch_one(app.db.reader())
            .await?;
        if known == 0 {
            adopted.push(take_in(app, file).await?);
        }
    }
    if !adopted.is_empty() {
        tracing::info!(count = adopted.len(), "images of the folder are taken in");
    }
    Ok(adopted)
}

fn listed(folder: &Path) -> std::io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A link may lead anywhere.
        let facts = entry.metadata()?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_image = Path::new(&name).extension().is_some_and(|ending| {
            let ending = ending.to_string_lossy().to_lowercase();
            const ENDINGS: [&str; 15] = [
                "qcow2", "vmdk", "vdi", "vhdx", "vhd", "vpc", "raw", "img", "iso", "ova", "gz",
                "xz", "zst", "bz2", "qcow",
            ];
            ENDINGS.contains(&ending.as_str())
        });
        if name.starts_with('.') || !facts.is_file() || !is_image {
            continue;
        }
        let source =
            json!({"type": "folder", "file": name, "size": facts.len(), "changed": facts.mtime()});
        found.push(Found {
            path: entry.path(),
            size: facts.len(),
            name,
            source,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

async fn take_in(app: &Shared, file: Found) -> Result<String> {
    let mut new = New {
        project: DEFAULT_PROJECT.to_owned(),
        name: name_of_file(&file.name),
        source: file.source,
        source_name: Some(file.name.clone()),
        state: "receiving",
        total: Some(file.size),
        wanted: Wanted::default(),
        ..New::default()
    };
    let mut change = app.db.change().await?;
    let row = match catalog::create(app, &mut change, new.clone()).await {
        Err(problem) if problem.code == NAME_TAKEN => {
            new.name = catalog::label(&file.name.replace(['/', '\\'], "_"))?;
            new.wanted.overwrite = true;
            catalog::create(app, &mut change, new).await?
        }
        created => created?,
    };
    change.commit().await?;
    let spool = Spool::create(&app.store.spool_of(&row.id), Some(file.size));
    let spool = spool.map_err(|error| fault::of_machine("receiving", &error))?;
    let job = Arc::new(Job::new(
        &row,
        Wanted::default(),
        spool,
        Arc::new(Files::default()),
    ));
    job.files.close();
    let _outcome = work::start(app, Arc::clone(&job));
    tokio::task::spawn_blocking(move || {
        if let Err(error) = copied(&file.path, &job.spool) {
            job.give_up(fault::of_machine("reading", &error));
        }
    });
    Ok(row.id)
}

fn copied(path: &Path, spool: &Spool) -> std::io::Result<()> {
    let mut file = fs::File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return spool.finish().map(|_| ()),
            len => spool.append(&piece[..len])?,
        }
    }
}

/// A folder that cannot be read is told, and does not keep the service from starting.
pub(crate) async fn adopt_at_start(app: &Shared) {
    if let Err(Problem { detail, .. }) = adopt(app).await {
        tracing::error!(detail, "the folder of images is not taken in");
    }
}
