//! From an asynchronous stream of bytes to a spool, by a thread of its own; limits are looked at on the way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};
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
    to_thread: Option<ToThread>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Somebody waits for the thread, and looks after what it has written.
    awaited: Arc<AtomicBool>,
    received: u64,
    /// Bytes for which there is room.
    room: u64,
}

/// The way to the thread. What waits there is bounded by its bytes as well as its pieces: the network delivers one byte at
/// once, or half a MiB.
struct ToThread {
    pieces: mpsc::Sender<Waiting>,
    /// A permit for each byte that may yet wait.
    room: Arc<Semaphore>,
}

/// A piece that waits, and the room that it takes.
type Waiting = (Bytes, OwnedSemaphorePermit);

/// Bytes that wait for the thread, at most; a longer piece waits alone.
const MOST_BYTES: u32 = 2 << 20;
/// Pieces that do.
const MOST_PIECES: usize = 64;

impl ToThread {
    fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (pieces, waiting) = mpsc::channel(MOST_PIECES);
        let room = Arc::new(Semaphore::new(MOST_BYTES as usize));
        (Self { pieces, room }, waiting)
    }

    /// Whether the thread takes it.
    async fn send(&self, piece: Bytes) -> bool {
        let bytes = u32::try_from(piece.len()).map_or(MOST_BYTES, |bytes| bytes.min(MOST_BYTES));
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        match room {
            Ok(room) => self.pieces.send((piece, room)).await.is_ok(),
            Err(_) => false,
        }
    }
}

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
        let (to_thread, mut waiting) = ToThread::new();
        let into = Arc::clone(spool);
        let awaited = Arc::new(AtomicBool::new(false));
        let cared_for = Arc::clone(&awaited);
        let thread = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            while let Some((piece, _room)) = waiting.blocking_recv() {
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
            Some(to_thread) => to_thread.send(bytes).await,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may")]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_sender_quicker_than_the_disk_waits_however_large_its_pieces_are() {
        for (bytes, most) in [(1, 64), (64 << 10, 32), (512 << 10, 4), (5 << 20, 1)] {
            let (to_thread, mut waiting) = ToThread::new();
            let piece = Bytes::from(vec![1; bytes]);
            let soon = Duration::from_millis(50);
            let mut sent = 0;
            while let Ok(true) = tokio::time::timeout(soon, to_thread.send(piece.clone())).await {
                sent += 1;
            }
            assert_eq!(sent, most, "pieces of {bytes} bytes");
            // One is written: there is room for one.
            drop(waiting.recv().await.unwrap());
            assert!(to_thread.send(piece.clone()).await);
            drop(waiting);
            assert!(!to_thread.send(piece).await);
        }
    }
}
