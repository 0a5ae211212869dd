//! One image on its way in: what is shared between whoever sends it, whoever makes it, and whoever asks how far it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use diskette::core::{Reference, Resolver, Result, Role, Storage, StorageMut};
use diskette_wire::Wanted;
use serde_json::{Value, json};

use crate::catalog::Row;
use crate::problem::Problem;
use crate::spool::{Spool, WatermarkStorage};

/// One image on its way in.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) image: String,
    pub(crate) project: String,
    /// The name of the file that is sent: a label.
    pub(crate) file_name: Option<String>,
    pub(crate) wanted: Wanted,
    /// A digest that was told after the bytes.
    promised: Mutex<Option<String>>,
    /// Why it was given up, if it was.
    problem: Mutex<Option<Problem>>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) files: Arc<Files>,
    /// Whoever sends bytes holds it.
    pub(crate) writer: Arc<tokio::sync::Mutex<()>>,
    pub(crate) cancel: AtomicBool,
    /// Bytes of the disk that have been converted, and that there are.
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
    /// When it began, and with how many bytes.
    begun: (Instant, u64),
    /// Whether it is fetched: whoever fetches it records how it ends, for another address may be asked.
    pub(crate) is_fetched: bool,
    /// What addresses have said that did not deliver.
    failures: Mutex<Vec<Value>>,
}

impl Job {
    pub(crate) fn new(row: &Row, wanted: Wanted, spool: Arc<Spool>, files: Arc<Files>) -> Self {
        Self {
            image: row.id.clone(),
            project: row.project.clone(),
            file_name: row.source_name.clone(),
            wanted,
            promised: Mutex::default(),
            problem: Mutex::default(),
            begun: (Instant::now(), spool.received()),
            is_fetched: false,
            failures: Mutex::default(),
            spool,
            files,
            writer: Arc::default(),
            cancel: AtomicBool::new(false),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// The same, of which others see to the bytes; and what addresses have said before.
    pub(crate) fn fetched(mut self, failures: &[(String, Problem)]) -> Self {
        self.is_fetched = true;
        for (url, problem) in failures {
            self.failed_at(url, problem);
        }
        self
    }

    /// An address does not deliver.
    pub(crate) fn failed_at(&self, url: &str, problem: &Problem) {
        let told = json!({"url": url, "code": problem.code.name, "detail": problem.detail});
        lock(&self.failures).push(told);
    }

    /// What addresses have said that did not deliver.
    pub(crate) fn failures(&self) -> Vec<Value> {
        lock(&self.failures).clone()
    }

    /// Bytes that come in a second, on average.
    pub(crate) fn rate(&self) -> u64 {
        let (since, before) = self.begun;
        let came = self.spool.received().saturating_sub(before);
        let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        came.saturating_mul(1000) / millis.max(1)
    }

    /// The SHA-256 or SHA-512 that was told later.
    pub(crate) fn promised(&self) -> Option<String> {
        lock(&self.promised).clone()
    }

    /// Adds a promise, if there is one.
    pub(crate) fn promise(&self, digest: Option<String>) {
        if digest.is_some() {
            *lock(&self.promised) = digest;
        }
    }

    /// Ends it, for this reason.
    pub(crate) fn give_up(&self, problem: Problem) {
        lock(&self.problem).get_or_insert(problem);
        self.cancel();
    }

    /// Why it was given up, if it was.
    pub(crate) fn problem(&self) -> Option<Problem> {
        lock(&self.problem).clone()
    }

    pub(crate) fn progress(&self, progress: diskette::engine::Progress) {
        self.done.store(progress.done, Ordering::Relaxed);
        self.total.store(progress.total, Ordering::Relaxed);
    }

    /// Ends it: soon, whoever works on it notices.
    pub(crate) fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        self.spool.abort();
        self.files.abort();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// The other files that are sent along: the extents of a VMDK beside its descriptor. An image opens these by the names
/// under which they were sent, and no others.
#[derive(Debug, Default)]
pub(crate) struct Files {
    sent: Mutex<Sent>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Sent {
    files: Vec<(String, Arc<Spool>)>,
    /// Whether no more are sent.
    closed: bool,
}

impl Files {
    /// One more.
    pub(crate) fn add(&self, name: &str, spool: Arc<Spool>) {
        self.sent().files.push((name.to_owned(), spool));
        self.changed.notify_all();
    }

    /// There are no more.
    pub(crate) fn close(&self) {
        self.sent().closed = true;
        self.changed.notify_all();
    }

    fn abort(&self) {
        self.close();
        for (_, spool) in &self.sent().files {
            spool.abort();
        }
    }

    /// All of them, when there are no more.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Spool>)> {
        let mut sent = self.sent();
        while !sent.closed {
            sent = self
                .changed
                .wait(sent)
                .unwrap_or_else(PoisonError::into_inner);
        }
        sent.files.clone()
    }

    /// The file that was sent under this name, which may still be to come.
    fn named(&self, name: &str) -> Option<Arc<Spool>> {
        let mut sent = self.sent();
        loop {
            if let Some((_, spool)) = sent.files.iter().find(|(sent, _)| sent == name) {
                return Some(Arc::clone(spool));
            }
            if sent.closed {
                return None;
            }
            sent = self
                .changed
                .wait(sent)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver for Files {
    fn open(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        if reference.role != Role::Part {
            return Err(reference.refused("an image that is uploaded stands alone"));
        }
        if reference.target.contains(['/', '\\']) {
            return Err(reference
                .refused("only files that are sent along are opened, and these lie in no folder"));
        }
        match self.named(&reference.target) {
            Some(spool) => Ok(Arc::new(WatermarkStorage::new(spool, &reference.target))),
            None => Err(reference.refused("no file of this name was sent along")),
        }
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written while an image is read"))
    }
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
