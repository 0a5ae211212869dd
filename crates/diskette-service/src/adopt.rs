//! Images that lie in a folder already are taken in: converted where they need it, under their names. What is put there later
//! is noticed. A file that a base image is known by becomes that base image; where it is damaged, it is put away.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::api::blocking;
use crate::auth::DEFAULT_PROJECT;
use crate::base::{self, Adopted};
use crate::catalog::{self, New, name_of_file};
use crate::fault;
use crate::ingest::{Files, Job, Wanted};
use crate::problem::{NAME_TAKEN, Problem, Result};
use crate::rights;
use crate::spool::Spool;
use crate::state::Shared;
use crate::work;

/// A file that may be an image.
#[derive(Clone, Debug)]
struct Found {
    path: PathBuf,
    name: String,
    facts: Facts,
}

impl Found {
    fn mark(&self) -> Mark {
        let size = catalog::number(self.facts.size);
        (self.name.clone(), size, self.facts.changed)
    }
}

/// By these a file is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    size: u64,
    changed: i64,
}

/// What was seen of the folder.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Files that have been looked at.
    known: HashMap<String, Facts>,
    /// Files that may still grow.
    new: HashMap<String, Facts>,
}

/// Takes in what is new in the folder; gives the ids of the images.
pub(crate) async fn adopt(app: &Shared) -> Result<Vec<String>> {
    let found = in_folder(app).await?;
    let taken = taken_before(app, &found).await?;
    let mut adopted = Vec::new();
    for file in found {
        if !taken.contains(&file.mark()) {
            adopted.push(take_in(app, file).await?);
        }
    }
    if !adopted.is_empty() {
        tracing::info!(count = adopted.len(), "images of the folder are taken in");
    }
    Ok(adopted)
}

/// Takes in what was put into the folder since it was looked at last, and does not grow any more.
pub(crate) async fn adopt_new(app: &Shared, seen: &mut Seen) -> Result<()> {
    let found = in_folder(app).await?;
    let there: HashSet<&str> = found.iter().map(|file| file.name.as_str()).collect();
    seen.known.retain(|name, _| there.contains(name.as_str()));
    seen.new.retain(|name, _| there.contains(name.as_str()));
    let mut noticed = Vec::new();
    for file in found {
        if seen.known.get(&file.name) == Some(&file.facts) {
            continue;
        }
        if seen.new.insert(file.name.clone(), file.facts) == Some(file.facts) {
            seen.new.remove(&file.name);
            seen.known.insert(file.name.clone(), file.facts);
            tracing::info!(file = file.name, "noticed in the folder of images");
            noticed.push(file);
        }
    }
    let taken = taken_before(app, &noticed).await?;
    for file in noticed {
        if !taken.contains(&file.mark()) {
            take_in(app, file).await?;
        }
    }
    Ok(())
}

async fn in_folder(app: &Shared) -> Result<Vec<Found>> {
    let Some(folder) = app.settings.images.clone() else {
        return Ok(Vec::new());
    };
    blocking(move || {
        let listed = listed(&folder);
        listed.map_err(|error| {
            fault::of_machine(&format!("reading the folder {}", folder.display()), &error)
        })
    })
    .await
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
        found.push(Found {
            path: entry.path(),
            name,
            facts: Facts {
                size: facts.len(),
                changed: facts.mtime(),
            },
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// A file's name, its size, and when it was changed.
type Mark = (String, i64, i64);

/// The files that images were made of before; nothing is looked up where none are asked for.
async fn taken_before(app: &Shared, files: &[Found]) -> Result<HashSet<Mark>> {
    if files.is_empty() {
        return Ok(HashSet::new());
    }
    let marks: Vec<Mark> = sqlx::query_as(
        "SELECT source ->> '$.file', source ->> '$.size', source ->> '$.changed' FROM images WHERE source ->> '$.type' = 'folder'",
    )
    .fetch_all(app.db.reader())
    .await?;
    Ok(marks.into_iter().collect())
}

async fn take_in(app: &Shared, file: Found) -> Result<String> {
    let adopted = base::adopted_by(app, &file.name).await?;
    let mut source = json!({
        "type": "folder", "file": file.name, "size": file.facts.size, "changed": file.facts.changed,
    });
    let mut new = New {
        project: DEFAULT_PROJECT.to_owned(),
        name: name_of_file(&file.name),
        source_name: Some(file.name.clone()),
        state: "receiving",
        total: Some(file.facts.size),
        wanted: Wanted::default(),
        ..New::default()
    };
    if let Some(adopted) = &adopted {
        source["catalog"] = adopted.name().into();
        adopted.describe(&mut new);
    }
    new.source = source;
    let wanted = new.wanted.clone();
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
    let spool = Spool::create(&app.store.spool_of(&row.id), Some(file.facts.size));
    let spool = spool.map_err(|error| fault::of_machine("receiving", &error))?;
    let job = Arc::new(Job::new(&row, wanted, spool, Arc::new(Files::default())));
    job.files.close();
    let outcome = work::start(app, Arc::clone(&job));
    if let Some(adopted) = adopted {
        let (app, row, path) = (Arc::clone(app), row.clone(), file.path.clone());
        tokio::spawn(async move { ended(&app, &adopted, &row, &path, outcome).await });
    }
    tokio::task::spawn_blocking(move || {
        if let Err(error) = copied(&file.path, &job.spool) {
            job.give_up(fault::of_machine("reading", &error));
        }
    });
    Ok(row.id)
}

/// What becomes of a base image that was put there by hand.
async fn ended(
    app: &Shared,
    adopted: &Adopted,
    row: &catalog::Row,
    path: &Path,
    outcome: work::Outcome,
) {
    let done = match work::outcome(outcome).await {
        Ok(()) => adopted.settle(app, row).await,
        Err(problem) if Adopted::is_bad(&problem) && !*app.ending.borrow() => {
            match put_away(path, &problem) {
                Ok(to) => tracing::error!(
                    file = %path.display(), to = %to.display(), code = problem.code.name, detail = problem.detail,
                    "a base image is bad, and put away"
                ),
                Err(why) => {
                    tracing::error!(file = %path.display(), why, "a base image is bad, and stays");
                }
            }
            adopted.retry(app, &problem).await
        }
        Err(_) => Ok(()),
    };
    if let Err(Problem { detail, .. }) = done {
        tracing::error!(file = %path.display(), detail, "not settled");
    }
}

/// Into a folder beside, with the reason.
fn put_away(path: &Path, problem: &Problem) -> Result<PathBuf, String> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("it has no name".to_owned());
    };
    let quarantine = folder.join("quarantine");
    let to = quarantine.join(name);
    let mut reason = name.to_owned();
    reason.push(".reason.json");
    let moved = fs::create_dir_all(&quarantine)
        .and_then(|()| fs::rename(path, &to))
        .and_then(|()| {
            let text = serde_json::to_vec_pretty(&problem.as_record())?;
            fs::write(quarantine.join(reason), text)
        });
    match moved {
        Ok(()) => Ok(to),
        Err(error) => Err(rights::told(folder, &error)),
    }
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

/// A folder that cannot be read is told, and does not keep the service from starting. What is seen now is not new later.
pub(crate) async fn adopt_at_start(app: &Shared) -> Seen {
    let mut seen = Seen::default();
    if let Some(why) = app.settings.images.as_deref().and_then(rights::missing) {
        tracing::warn!(why, "images are taken in, and none can be put away");
    }
    if let Ok(found) = in_folder(app).await {
        seen.known = found
            .into_iter()
            .map(|file| (file.name, file.facts))
            .collect();
    }
    if let Err(Problem { detail, .. }) = adopt(app).await {
        tracing::error!(detail, "the folder of images is not taken in");
    }
    seen
}
