//! What all handlers share.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::auth::Codes;
use crate::base::Bases;
use crate::consoles::Tickets;
use crate::db::Database;
use crate::ingest::Job;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::operations::Steering;
use crate::settings::Settings;
use crate::store::Store;
use crate::work::Benches;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) db: Database,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) benches: Benches,
    /// Whoever puts blobs in their places, or takes them away, holds this.
    pub(crate) shelves: tokio::sync::Mutex<()>,
    pub(crate) nodes: Nodes,
    pub(crate) bases: Bases,
    pub(crate) tickets: Tickets,
    pub(crate) codes: Codes,
    /// Becomes true when the service ends.
    pub(crate) ending: watch::Sender<bool>,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    operations: Mutex<HashMap<String, Arc<Steering>>>,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new(settings: Settings, db: Database, store: Store) -> Self {
        Self {
            benches: Benches::new(&settings),
            nodes: Nodes::new(&settings),
            bases: Bases::new(&settings),
            tickets: Tickets::default(),
            codes: Codes::default(),
            settings,
            db,
            store,
            metrics: Metrics::default(),
            shelves: tokio::sync::Mutex::default(),
            ending: watch::Sender::new(false),
            jobs: Mutex::default(),
            operations: Mutex::default(),
        }
    }

    /// Who works on this image, if anybody does.
    pub(crate) fn job(&self, image: &str) -> Option<Arc<Job>> {
        self.jobs().get(image).cloned()
    }

    pub(crate) fn add_job(&self, job: Arc<Job>) {
        self.jobs().insert(job.image.clone(), job);
    }

    pub(crate) fn remove_job(&self, image: &str) {
        self.jobs().remove(image);
    }

    /// Everything that is worked on.
    pub(crate) fn all_jobs(&self) -> Vec<Arc<Job>> {
        self.jobs().values().cloned().collect()
    }

    /// Has all work end soon, to be gone on with at the next start.
    pub(crate) fn cancel_all(&self) {
        for job in self.jobs().values() {
            job.cancel();
        }
        for steering in lock(&self.operations).values() {
            steering.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Whether nothing is worked on.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs().is_empty() && lock(&self.operations).is_empty()
    }

    /// How an operation that runs is steered.
    pub(crate) fn operation(&self, id: &str) -> Option<Arc<Steering>> {
        lock(&self.operations).get(id).cloned()
    }

    pub(crate) fn add_operation(&self, id: &str, steering: Arc<Steering>) {
        lock(&self.operations).insert(id.to_owned(), steering);
    }

    pub(crate) fn remove_operation(&self, id: &str) {
        lock(&self.operations).remove(id);
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job>>> {
        lock(&self.jobs)
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
