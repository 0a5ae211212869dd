//! From an asynchronous stream of bytes to a spool, by a thread of its own; limits are looked at on the way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinHandle;

use crate::catalog;
use crate::fault;
use crate::ingest::Job;
use crate::problem::{Problem, Result, TOO_LARGE, TRUNCATED};
use crate::spool::Spool;
use crate::state::Shared;

/// Takes bytes for a spool. Dropped before its end, it leaves what has come.
pub(crate) struct Receiver {
    app: Shared,
    job: Arc<Job>,
    spool: Arc<Spool>,
    to_thread: Option<mpsc::Sender<Bytes>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Somebody waits for the thread, and looks after what it has written.
    awaited: Arc<AtomicBool>,
    received: u64,
    /// Bytes for which there is room.
    room: u64,
}

/// What waits for the thread, at most: pieces of what the network delivers at once.
const WAITING: usize = 64;

impl Receiver {
    /// For the job's own spool, or another of the job's.
    pub(crate) fn new(app: &Shared, job: &Arc<Job>, spool: &Arc<Spool>) -> Self {
        Self::with(app, job, spool, None)
    }

    /// The same; `alone` is held until the last bytes are in the spool, also when nobody waits for that any more.
    pub(crate) fn with(
        app: &Shared,
        job: &Arc<Job>,
        spool: &Arc<Spool>,
        alone: Option<OwnedMutexGuard<()>>,
    ) -> Self {
        let (to_thread, mut bytes) = mpsc::channel::<Bytes>(WAITING);
        let into = Arc::clone(spool);
        let awaited = Arc::new(AtomicBool::new(false));
        let cared_for = Arc::clone(&awaited);
        let thread = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            while let Some(piece) = bytes.blocking_recv() {
                into.append(&piece)?;
            }
            match cared_for.load(Ordering::Relaxed) {
                true => Ok(()),
                false => into.flush(),
            }
        });
        Self {
            app: Arc::clone(app),
            job: Arc::clone(job),
            spool: Arc::clone(spool),
            received: spool.watermark(),
            room: 0,
            to_thread: Some(to_thread),
            thread: Some(thread),
            awaited,
        }
    }

    /// The next bytes.
    pub(crate) async fn take(&mut self, bytes: Bytes) -> Result<()> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        allowed(&self.app, self.received)?;
        if let Some(total) = self.spool.total()
            && self.received > total
        {
            let detail = format!("{total} bytes were announced, and more have come");
            return Err(Problem::bad_request(detail));
        }
        if self.received > self.room {
            self.room = match self.spool.total() {
                Some(total) => total,
                None => catalog::expected_after(self.received),
            };
            catalog::receiving(&self.app, &self.job.image, self.received, self.room).await?;
        }
        let metrics = &self.app.metrics.received;
        metrics.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let sent = match &self.to_thread {
            Some(to_thread) => to_thread.send(bytes).await.is_ok(),
            None => false,
        };
        match sent {
            true => Ok(()),
            // The thread has an error to tell.
            false => self.drained().await,
        }
    }

    /// All that was taken is in the spool; it is stable, too, unless that is all there will be: then the spool's end is what
    /// is written down next.
    pub(crate) async fn written(&mut self) -> Result<()> {
        self.drained().await?;
        if self.spool.total() == Some(self.spool.watermark()) {
            return Ok(());
        }
        let spool = Arc::clone(&self.spool);
        let flushed = tokio::task::spawn_blocking(move || spool.flush()).await;
        let flushed = flushed.map_err(Problem::internal)?;
        flushed.map_err(|error| fault::of_machine("receiving", &error))
    }

    async fn drained(&mut self) -> Result<()> {
        self.awaited.store(true, Ordering::Relaxed);
        self.to_thread = None;
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let written = thread.await.map_err(Problem::internal)?;
        written.map_err(|error| match self.job.is_cancelled() {
            true => Problem::new(crate::problem::CANCELLED, "the image was given up"),
            false => fault::of_machine("receiving", &error),
        })
    }

    /// The same, and there is no more to come.
    pub(crate) async fn finish(mut self) -> Result<()> {
        self.drained().await?;
        let spool = Arc::clone(&self.spool);
        if let Some(total) = spool.total()
            && spool.watermark() < total
        {
            let detail = format!("{} of {total} bytes have come", spool.watermark());
            return Err(Problem::new(TRUNCATED, detail));
        }
        let finished = tokio::task::spawn_blocking(move || spool.finish()).await;
        let finished = finished.map_err(Problem::internal)?;
        finished
            .map(|_| ())
            .map_err(|error| fault::of_machine("receiving", &error))
    }
}

/// That an upload may have so many bytes.
pub(crate) fn allowed(app: &Shared, bytes: u64) -> Result<()> {
    let limit = app.settings.max_upload;
    if bytes <= limit {
        return Ok(());
    }
    let detail = format!(
        "it has {bytes} bytes, or more; the setting `max_upload` allows {limit} ({})",
        crate::size::Size(limit)
    );
    let problem = Problem::new(TOO_LARGE, detail).with("limit", limit);
    Err(problem.with("size", bytes).with("setting", "max_upload"))
}

/// Takes all of a body into the job's spool. If it breaks off, the job is given up.
pub(crate) async fn receive_body<E: std::fmt::Display>(
    app: &Shared,
    job: &Arc<Job>,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<()> {
    let unfinished = GiveUp(Some(Arc::clone(job)));
    let mut receiver = Receiver::new(app, job, &job.spool);
    let mut body = std::pin::pin!(body);
    while let Some(piece) = body.next().await {
        let taken = match piece {
            Ok(piece) => receiver.take(piece).await,
            Err(error) => Err(Problem::new(
                TRUNCATED,
                format!("the upload broke off: {error}"),
            )),
        };
        if let Err(problem) = taken {
            return Err(unfinished.because(problem));
        }
    }
    if let Err(problem) = receiver.finish().await {
        return Err(unfinished.because(problem));
    }
    unfinished.defuse();
    Ok(())
}

/// Gives a job up, unless it is told that all is well: the handler of a client that goes away is dropped wherever it waits.
pub(crate) struct GiveUp(pub(crate) Option<Arc<Job>>);

impl GiveUp {
    pub(crate) fn defuse(mut self) {
        self.0 = None;
    }

    pub(crate) fn because(mut self, problem: Problem) -> Problem {
        if let Some(job) = self.0.take() {
            job.give_up(problem.clone());
        }
        problem
    }
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        if let Some(job) = self.0.take() {
            job.give_up(Problem::new(TRUNCATED, "the client went away"));
        }
    }
}
