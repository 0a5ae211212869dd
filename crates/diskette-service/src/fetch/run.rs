//! An import: an image that is fetched, and converted while it comes. Where an address does not deliver, or delivers other
//! bytes than those that were promised, the next one is asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use diskette::engine::Control;
use serde_json::{Value, json};

use super::Import;
use super::client::Client;
use super::promise::promised;
use super::transfer::{Stopped, Transfer};
use crate::api::blocking;
use crate::catalog::{self, Row};
use crate::fault;
use crate::ingest::{Files, Job, hex, sha512_of_file};
use crate::problem::{CANCELLED, CHECKSUM_MISMATCH, EXPIRED, MIRRORS_EXHAUSTED, Problem, Result};
use crate::spool::{self, Origin, Spool};
use crate::state::Shared;
use crate::work;

/// What has been fetched.
#[derive(Debug)]
pub(crate) struct Got {
    /// What the bytes were held against.
    pub(crate) digest: Option<String>,
    /// Where they have come from.
    pub(crate) url: String,
    pub(crate) etag: Option<String>,
}

/// Begins to fetch what a row says.
pub(crate) fn begin(app: &Shared, row: &Row, import: Import, spool: Option<Arc<Spool>>) {
    let (app, row) = (Arc::clone(app), row.clone());
    tokio::spawn(async move {
        // How it ends stands in the records.
        let _ = fetched(&app, &row, &import, spool).await;
    });
}

/// Goes on with what another run of the service has begun.
pub(crate) fn resume(app: &Shared, row: &Row) -> Result<()> {
    let (import, spool) = resumed_spool(app, row)?;
    begin(app, row, import, spool);
    Ok(())
}

/// What a row asks for, and what of it has come.
pub(crate) fn resumed_spool(app: &Shared, row: &Row) -> Result<(Import, Option<Arc<Spool>>)> {
    let import: Import = serde_json::from_str(&row.source).map_err(Problem::internal)?;
    let path = app.store.spool_of(&row.id);
    match Spool::resume(&path) {
        // Without a digest or an ETag nobody knows whether the rest belongs to what is there.
        Ok(spool) if import.has_digest() || spool.is_whole() || spool.origin().is_some() => {
            Ok((import, Some(spool)))
        }
        _ => {
            let gone = spool::remove(&path);
            gone.map_err(|error| fault::of_machine("receiving", &error))?;
            Ok((import, None))
        }
    }
}

/// Fetches what a row says; done when the image is ready, or cannot be had. Either is recorded then.
pub(crate) async fn fetched(
    app: &Shared,
    row: &Row,
    import: &Import,
    spool: Option<Arc<Spool>>,
) -> Result<Got> {
    let outcome = rounds(app, row, import, spool).await;
    if let Err(problem) = &outcome
        && !*app.ending.borrow()
    {
        app.metrics.failed.fetch_add(1, Ordering::Relaxed);
        let (code, detail) = (problem.code.name, &problem.detail);
        tracing::warn!(image = row.id, name = row.name, code, detail, "failed");
        let state = match problem.code == EXPIRED {
            true => "expired",
            false => "failed",
        };
        catalog::failed(&app.db, &row.id, state, problem).await?;
        let gone = spool::remove(&app.store.spool_of(&row.id));
        gone.map_err(|error| fault::of_machine("receiving", &error))?;
    }
    outcome
}

/// How often is begun anew because the bytes have changed meanwhile.
const MOST_CHANGES: usize = 3;

/// Which addresses are left, and what the others have said.
struct Way {
    left: Vec<String>,
    failures: Vec<(String, Problem)>,
    /// Whether one address goes on where another broke off: not, once that gave wrong bytes.
    mixing: bool,
    changes: usize,
}

/// How a round ended that has not brought the image. Complete by nature.
enum Ended {
    /// There is more to be tried, from the beginning.
    Again,
    Final(Problem),
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Final(problem)
    }
}

async fn rounds(
    app: &Shared,
    row: &Row,
    import: &Import,
    mut spool: Option<Arc<Spool>>,
) -> Result<Got> {
    let digests = digests(app, import).await?;
    let mut way = Way {
        left: import.addresses().cloned().collect(),
        failures: Vec::new(),
        mixing: !digests.is_empty(),
        changes: 0,
    };
    loop {
        expect_there(app, row).await?;
        let spool = match spool.take() {
            Some(spool) => spool,
            None => Spool::create(&app.store.spool_of(&row.id), None)
                .map_err(|error| fault::of_machine("receiving", &error))?,
        };
        let files = Arc::new(Files::default());
        files.close();
        let job = Job::new(row, import.wanted.clone(), spool, files);
        let job = Arc::new(job.fetched(&way.failures));
        let making = work::start(app, Arc::clone(&job));
        let round = Round {
            app: Arc::clone(app),
            job: Arc::clone(&job),
            import: import.clone(),
            digests: digests.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let (fed, left) = blocking(move || {
            let fed = round.run(&mut way);
            if fed.is_err() {
                round.job.cancel();
            }
            Ok((fed, way))
        })
        .await?;
        way = left;
        let made = work::outcome(making).await;
        match (fed, made) {
            (Ok(got), Ok(())) => return Ok(got),
            // The bytes are right; the image is not.
            (Ok(_), Err(problem)) => return Err(job.problem().unwrap_or(problem)),
            (Err(Ended::Again), _) if job.problem().is_none() => {
                catalog::set_state(&app.db, &row.id, "fetching").await?;
            }
            (Err(Ended::Again), _) => return Err(given_up(&job)),
            (Err(Ended::Final(problem)), _) => return Err(job.problem().unwrap_or(problem)),
        }
    }
}

fn given_up(job: &Job) -> Problem {
    let problem = job.problem();
    problem.unwrap_or_else(|| Problem::new(CANCELLED, "it was given up"))
}

/// All that the bytes are held against.
async fn digests(app: &Shared, import: &Import) -> Result<Vec<String>> {
    let (shared, wanted) = (Arc::clone(app), import.clone());
    let sums = blocking(move || promised(&shared.settings, &wanted)).await?;
    let own = [&import.wanted.sha256, &import.wanted.sha512];
    let own = own.into_iter().flatten().cloned();
    Ok(own.chain(sums.map(|sums| sums.digest)).collect())
}

/// That nobody has deleted it meanwhile.
async fn expect_there(app: &Shared, row: &Row) -> Result<()> {
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM images WHERE id = ?")
        .bind(&row.id)
        .fetch_one(app.db.reader())
        .await?;
    match found {
        0 => Err(Problem::new(CANCELLED, "the image was deleted meanwhile")),
        _ => Ok(()),
    }
}

struct Round {
    app: Shared,
    job: Arc<Job>,
    import: Import,
    digests: Vec<String>,
    runtime: tokio::runtime::Handle,
}

impl Round {
    fn run(&self, way: &mut Way) -> Result<Got, Ended> {
        let spool = &self.job.spool;
        // Who has given what is there already is not known, but for the last.
        let mut givers: Vec<String> = match (spool.received(), spool.origin()) {
            (0, _) => Vec::new(),
            (_, Some(origin)) => vec![origin.url],
            _ => vec![String::new()],
        };
        if !spool.is_whole() {
            self.receive(way, &mut givers)?;
        }
        let wrong = self.wrong_digest()?;
        let Some(problem) = wrong else {
            let finished = spool.finish();
            finished.map_err(|error| fault::of_machine("receiving", &error))?;
            let origin = spool.origin();
            return Ok(self.got(origin, givers));
        };
        match &givers[..] {
            [giver] if !giver.is_empty() => self.gave_up(way, &giver.clone(), problem),
            _ if way.mixing => {
                // Each alone, from now on: a round has one giver then.
                way.mixing = false;
                self.tell(&givers.join(", "), &problem);
                Err(Ended::Again)
            }
            _ => Err(Ended::Final(problem)),
        }
    }

    fn got(&self, origin: Option<Origin>, givers: Vec<String>) -> Got {
        Got {
            digest: self.digests.first().cloned(),
            url: givers.last().cloned().unwrap_or_default(),
            etag: origin.map(|origin| origin.etag),
        }
    }

    /// From the addresses that are left, until all bytes are there.
    fn receive(&self, way: &mut Way, givers: &mut Vec<String>) -> Result<(), Ended> {
        let client = Client::new(&self.app.settings, self.import.has_digest());
        loop {
            let Some(url) = way.left.first().cloned() else {
                return Err(Ended::Final(exhausted(way)));
            };
            let transfer = Transfer {
                app: &self.app,
                job: &self.job,
                import: &self.import,
                client: &client,
                url: &url,
                runtime: &self.runtime,
            };
            let before = self.job.spool.received();
            let stopped = transfer.run();
            let gave = stopped.is_ok() || self.job.spool.received() > before;
            if gave && !givers.contains(&url) {
                givers.push(url.clone());
            }
            match stopped {
                Ok(()) => return Ok(()),
                Err(Stopped::Everywhere(problem)) => return Err(Ended::Final(problem)),
                Err(Stopped::Changed(problem)) if way.changes < MOST_CHANGES => {
                    way.changes += 1;
                    self.tell(&url, &problem);
                    return Err(Ended::Again);
                }
                Err(Stopped::Here(problem) | Stopped::Changed(problem)) => {
                    let ended = self.gave_up(way, &url, problem);
                    if !way.mixing && self.job.spool.received() > 0 || way.left.is_empty() {
                        return ended.map(|_| ());
                    }
                }
            }
        }
    }

    /// An address is of no use any more.
    fn gave_up(&self, way: &mut Way, url: &str, problem: Problem) -> Result<Got, Ended> {
        self.tell(url, &problem);
        way.left.retain(|left| left != url);
        way.failures.push((url.to_owned(), problem));
        match way.left.is_empty() {
            true => Err(Ended::Final(exhausted(way))),
            false => Err(Ended::Again),
        }
    }

    /// What an address has said is seen while the next is asked.
    fn tell(&self, url: &str, problem: &Problem) {
        let (code, detail) = (problem.code.name, &problem.detail);
        tracing::warn!(
            image = self.job.image,
            url,
            code,
            detail,
            "an address does not deliver"
        );
        self.job.failed_at(url, problem);
        let told = json!({"url": url, "problem": problem.as_record()});
        let done = self.runtime.block_on(async {
            let mut change = self.app.db.change().await?;
            let (project, image) = (&self.job.project, &self.job.image);
            change
                .tell(project, "image", image, "mirror_failed", &told)
                .await?;
            change.commit().await
        });
        if let Err(error) = done {
            tracing::error!(%error, "an event is not recorded");
        }
    }

    /// What is wrong with the bytes, if they are not those that were promised.
    fn wrong_digest(&self) -> Result<Option<Problem>> {
        let spool = &self.job.spool;
        let mut control = Control::default();
        control.cancel = Some(&self.job.cancel);
        for promised in &self.digests {
            let found = match promised.len() {
                128 => sha512_of_file(spool.path(), &control)
                    .map_err(|error| fault::of_machine("hashing", &error))?,
                _ => hex(&spool.sha256()),
            };
            if !promised.eq_ignore_ascii_case(&found) {
                let kind = if promised.len() == 128 {
                    "SHA-512"
                } else {
                    "SHA-256"
                };
                let detail = format!("the {kind} is {found}, promised was {promised}");
                return Ok(Some(Problem::new(CHECKSUM_MISMATCH, detail)));
            }
        }
        Ok(None)
    }
}

/// What all addresses have said.
fn exhausted(way: &mut Way) -> Problem {
    let mut failures = std::mem::take(&mut way.failures);
    match failures.len() {
        0 | 1 => failures.pop().map_or_else(
            || Problem::new(MIRRORS_EXHAUSTED, "no address is left"),
            |(_, problem)| problem,
        ),
        _ => {
            let details =
                failures
                    .iter()
                    .map(|(url, problem)| match problem.detail.contains(url) {
                        true => problem.detail.clone(),
                        false => format!("{url}: {}", problem.detail),
                    });
            let told: Vec<Value> = failures.iter().map(failure_as_json).collect();
            let details: Vec<_> = details.collect();
            Problem::new(MIRRORS_EXHAUSTED, details.join("; ")).with("failures", told)
        }
    }
}

fn failure_as_json((url, problem): &(String, Problem)) -> Value {
    json!({"url": url, "code": problem.code.name, "detail": problem.detail})
}
