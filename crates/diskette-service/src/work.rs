//! Images in the making: who works on which, and what becomes of it.

use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, watch};

use crate::catalog::{self, Row};
use crate::fault;
use crate::ingest::{self, Bench, Job, Made};
use crate::problem::{CANCELLED, EXPIRED, Problem, Result};
use crate::state::{App, Shared};

/// How much is done at once.
#[derive(Debug)]
pub(crate) struct Benches {
    /// Images that are converted while their bytes come: each keeps a thread that mostly waits.
    streaming: Arc<Semaphore>,
    /// Images whose bytes are all there.
    whole: Arc<Semaphore>,
}

impl Benches {
    pub(crate) fn new(settings: &crate::settings::Settings) -> Self {
        Self {
            streaming: Arc::new(Semaphore::new(32)),
            whole: Arc::new(Semaphore::new(settings.threads.max(2))),
        }
    }
}

/// What has become of an image; nothing, while it is made.
pub(crate) type Outcome = watch::Receiver<Option<Result<()>>>;

/// Begins to make an image of what is in the job's spool, or is still to come into it.
pub(crate) fn start(app: &Shared, job: Arc<Job>) -> Outcome {
    let (told, outcome) = watch::channel(None);
    app.add_job(Arc::clone(&job));
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let outcome = run(&app, &job).await;
        app.remove_job(&job.image);
        told.send_replace(Some(outcome));
    });
    outcome
}

/// The states that an image goes through while it is made.
const STEPS: [&str; 2] = ["converting", "verifying"];

/// Waits for it.
pub(crate) async fn outcome(mut outcome: Outcome) -> Result<()> {
    let done = outcome.wait_for(Option::is_some).await;
    let done = done.map(|done| done.clone());
    match done {
        Ok(Some(outcome)) => outcome,
        _ => Err(Problem::internal("a task ended without an outcome")),
    }
}

async fn run(app: &Shared, job: &Arc<Job>) -> Result<()> {
    let made = made(app, job).await;
    let ended = match made {
        Ok(made) => finished(app, &job.image, made).await,
        Err(problem) => Err(problem),
    };
    match &ended {
        Ok(()) => {
            app.metrics
                .ready
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::info!(image = job.image, "ready");
        }
        Err(_) if *app.ending.borrow() => {
            // A start goes on with what is there.
            return ended;
        }
        Err(problem) if job.is_fetched => {
            let problem = job.problem().unwrap_or_else(|| problem.clone());
            remove_all(app, job).await?;
            return Err(problem);
        }
        Err(problem) => {
            app.metrics
                .failed
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::warn!(
                image = job.image,
                code = problem.code.name,
                detail = problem.detail,
                "failed"
            );
            let problem = job.problem().unwrap_or_else(|| problem.clone());
            let state = match problem.code == EXPIRED {
                true => "expired",
                false => "failed",
            };
            catalog::failed(&app.db, &job.image, state, &problem).await?;
            remove_all(app, job).await?;
            return Err(problem);
        }
    }
    remove_all(app, job).await?;
    ended
}

async fn remove_all(app: &Shared, job: &Arc<Job>) -> Result<()> {
    let (app, job) = (Arc::clone(app), Arc::clone(job));
    let removed = tokio::task::spawn_blocking(move || remove_files(&app, &job)).await;
    removed.map_err(Problem::internal)
}

/// On a thread that may wait.
async fn made(app: &Shared, job: &Arc<Job>) -> Result<Made> {
    let whole = job.spool.is_whole();
    let semaphore = match whole {
        false => Arc::clone(&app.benches.streaming).try_acquire_owned().ok(),
        true => None,
    };
    let permit = match semaphore {
        Some(permit) => permit,
        None => {
            // There are many: this one is made when all of it is there.
            let waiting = Arc::clone(job);
            let came = tokio::task::spawn_blocking(move || waiting.spool.wait_for_end()).await;
            came.map_err(Problem::internal)?
                .map_err(|error| fault::of_machine("receiving", &error))?;
            let permit = Arc::clone(&app.benches.whole).acquire_owned().await;
            permit.map_err(Problem::internal)?
        }
    };
    let (app, job) = (Arc::clone(app), Arc::clone(job));
    let runtime = tokio::runtime::Handle::current();
    let made = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let last = Mutex::new("");
        let enters = |state: &'static str| {
            let mut last = last
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let step = |state| STEPS.iter().position(|step| *step == state);
            if step(*last) >= step(state) {
                // A second attempt goes back, the state does not.
                return;
            }
            *last = state;
            if let Err(problem) = runtime.block_on(catalog::set_state(&app.db, &job.image, state)) {
                tracing::error!(
                    image = job.image,
                    detail = problem.detail,
                    "its state is not recorded"
                );
            }
        };
        let bench = Bench {
            job: &job,
            store: &app.store,
            settings: &app.settings,
            enters: &enters,
        };
        ingest::make(&bench)
    });
    made.await.map_err(Problem::internal)?
}

/// Gives the image its blob, its manifest, and its record; in this order.
pub(crate) async fn finished(app: &Shared, image: &str, made: Made) -> Result<()> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM images WHERE id = ?")
        .bind(image)
        .fetch_optional(app.db.reader())
        .await?;
    let Some(row) = row else {
        let _ = std::fs::remove_file(&made.staged);
        return Err(Problem::new(CANCELLED, "the image was deleted meanwhile"));
    };
    // Nobody gives up the same blob meanwhile.
    let _shelves = app.shelves.lock().await;
    let row = catalog::made(row, &made);
    let (shared, written) = (Arc::clone(app), row.clone());
    let put = tokio::task::spawn_blocking(move || {
        let put = shared.store.put(&made.staged, &made.sha256);
        put.map_err(|error| fault::of_machine("storing", &error))?;
        catalog::write_manifest(&shared, &written)
    });
    put.await.map_err(Problem::internal)??;
    catalog::ready(app, &row).await
}

/// What came in, and what lies half made.
fn remove_files(app: &App, job: &Job) {
    job.files.close();
    let others = job.files.all();
    let others = others.iter().map(|(_, spool)| spool);
    for spool in others.chain([&job.spool]) {
        if let Err(error) = spool.remove() {
            tracing::warn!(%error, path = %spool.path().display(), "stays");
        }
    }
    for ending in ["qcow2", "kept"] {
        let _ = std::fs::remove_file(app.store.staging().join(format!("{}.{ending}", job.image)));
    }
}
