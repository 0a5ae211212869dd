//! The bytes of one address, into a spool: from where they broke off, and in several parts at once where that is safe.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;
use ureq::Body;
use ureq::http::{Response, header};

use super::Import;
use super::client::{Ask, Client, failed, may_pass, strong_etag};
use super::watched::Watched;
use crate::ingest::Job;
use crate::problem::{CANCELLED, DOWNLOAD_FAILED, Problem, Result, TOO_LARGE, URL_REFUSED};
use crate::spool::Origin;
use crate::state::Shared;
use crate::{catalog, fault, upload};

/// Why it ended before all was there. Complete by nature.
#[derive(Debug)]
pub(super) enum Stopped {
    /// This address does not deliver.
    Here(Problem),
    /// What the address leads to is no longer what it was: what has come is of no use.
    Changed(Problem),
    /// No address is of use any more.
    Everywhere(Problem),
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        match [DOWNLOAD_FAILED, URL_REFUSED].contains(&problem.code) {
            true => Self::Here(problem),
            false => Self::Everywhere(problem),
        }
    }
}

/// One address, and the spool that its bytes go into.
pub(super) struct Transfer<'a> {
    pub(super) app: &'a Shared,
    pub(super) job: &'a Job,
    pub(super) import: &'a Import,
    pub(super) client: &'a Client,
    pub(super) url: &'a str,
    pub(super) runtime: &'a tokio::runtime::Handle,
}

/// How often a server is asked that delivers next to nothing.
const TRIES: u32 = 4;
/// Bytes after which it is one that delivers.
const PROGRESS: u64 = 1 << 20;
/// Bytes of a part that is asked for at once.
const PART: u64 = 8 << 20;

type Part = (u64, u64);

/// How an answer is to be read.
struct Opened {
    answer: Response<Body>,
    /// Where its bytes begin.
    from: u64,
    total: Option<u64>,
    etag: Option<String>,
    /// Whether the server gives parts.
    ranges: bool,
}

impl Transfer<'_> {
    /// Fetches what is not there yet.
    pub(super) fn run(&self) -> Result<(), Stopped> {
        self.tried(&|| self.attempt())
    }

    /// Again and again, for as long as more comes.
    fn tried(&self, attempt: &dyn Fn() -> Result<(), Stopped>) -> Result<(), Stopped> {
        let mut left = TRIES;
        loop {
            let before = self.job.spool.received();
            let problem = match attempt() {
                Err(Stopped::Here(problem)) if may_pass(&problem) => problem,
                ended => return ended,
            };
            self.wanted()?;
            left = match self.job.spool.received().saturating_sub(before) >= PROGRESS {
                true => TRIES,
                false => left - 1,
            };
            if left == 0 {
                return Err(Stopped::Here(problem));
            }
            tracing::info!(
                url = self.url,
                detail = problem.detail,
                "fetching is tried again"
            );
            thread::sleep(Duration::from_millis(200 << (2 * (TRIES - left).min(3))));
        }
    }

    /// That nobody has given it up.
    fn wanted(&self) -> Result<(), Stopped> {
        match self.job.is_cancelled() {
            true => Err(Stopped::Everywhere(Problem::new(
                CANCELLED,
                "it was given up",
            ))),
            false => Ok(()),
        }
    }

    fn attempt(&self) -> Result<(), Stopped> {
        let spool = &self.job.spool;
        if spool
            .total()
            .is_some_and(|total| spool.gaps(total).is_empty())
        {
            return Ok(());
        }
        let known = spool.origin().filter(|origin| origin.url == self.url);
        let opened = self.open(known.as_ref())?;
        self.settle(&opened)?;
        if opened.answer.status() == 416 {
            return self.all_there();
        }
        let parts = self.app.settings.download_parts;
        match opened.total {
            Some(total) if opened.ranges && self.in_parts(&opened, total, parts) => {
                self.parts(opened, total, parts)?;
            }
            _ if spool.received() > spool.watermark() => {
                // Another server, which gives no parts.
                let detail = "it gives all or nothing, and parts are there";
                return Err(Stopped::Changed(failed(self.url, detail)));
            }
            _ => self.in_order(opened)?,
        }
        self.all_there()
    }

    fn open(&self, known: Option<&Origin>) -> Result<Opened, Stopped> {
        let from = self.job.spool.watermark();
        let answer = self.client.ask(&Ask {
            from,
            version: known.map(|origin| origin.etag.as_str()),
            ..Ask::whole(self.url)
        })?;
        let etag = strong_etag(&answer);
        let (starts, total, ranges) = match answer.status().as_u16() {
            206 => {
                let (starts, total) = range_of(&answer)
                    .filter(|(starts, _)| *starts == from)
                    .ok_or_else(|| failed(self.url, "it answers another range"))?;
                (starts, total, true)
            }
            416 => (from, self.job.spool.total(), false),
            _ => {
                let takes = text(&answer, header::ACCEPT_RANGES) == Some("bytes");
                let len = text(&answer, header::CONTENT_LENGTH);
                (0, len.and_then(|len| len.parse().ok()), takes && from == 0)
            }
        };
        if let Some(known) = known.filter(|known| from > 0 && etag.as_ref() != Some(&known.etag)) {
            let detail = format!("it has changed while it was fetched: it was {}", known.etag);
            return Err(Stopped::Changed(failed(self.url, detail)));
        }
        Ok(Opened {
            answer,
            from: starts,
            total,
            etag,
            ranges,
        })
    }

    /// Writes down what is known now, and sets the room aside.
    fn settle(&self, opened: &Opened) -> Result<(), Stopped> {
        let spool = &self.job.spool;
        let machine = |error| Stopped::Everywhere(fault::of_machine("receiving", &error));
        if let Some(total) = opened.total {
            self.allowed(total)?;
            match spool.total() {
                Some(known) if known != total => {
                    let problem = failed(self.url, "the file has another size now");
                    return Err(Stopped::Changed(problem));
                }
                Some(_) => {}
                None => spool.set_total(total).map_err(machine)?,
            }
            self.reserve(spool.received(), total)?;
        }
        if opened.answer.status() == 416 {
            return Ok(());
        }
        let origin = opened.etag.clone().map(|etag| Origin {
            url: self.url.to_owned(),
            etag,
        });
        spool.set_origin(origin).map_err(machine)
    }

    /// Several at once are safe where an ETag tells that they are parts of the same.
    fn in_parts(&self, opened: &Opened, total: u64, parts: usize) -> bool {
        let spool = &self.job.spool;
        let left = total.saturating_sub(spool.received());
        let is_large = parts > 1 && opened.etag.is_some() && left >= 2 * PART;
        is_large || spool.received() > spool.watermark()
    }

    fn parts(&self, opened: Opened, total: u64, parts: usize) -> Result<(), Stopped> {
        let pieces = self.job.spool.gaps(total).into_iter().flat_map(pieces_of);
        let queue: Mutex<VecDeque<Part>> = Mutex::new(pieces.collect());
        let failure = Mutex::new(None);
        let over = AtomicBool::new(false);
        let fail = |stopped: Stopped| {
            over.store(true, Ordering::Relaxed);
            lock(&failure).get_or_insert(stopped);
        };
        let etag = opened.etag.clone();
        let work = || {
            while !over.load(Ordering::Relaxed) {
                let Some(part) = lock(&queue).pop_front() else {
                    return;
                };
                if let Err(stopped) = self.part(part, etag.as_deref(), &over) {
                    return fail(stopped);
                }
            }
        };
        // The first part comes with the answer that is open already.
        let first = lock(&queue).pop_front();
        thread::scope(|scope| {
            let others = match etag {
                Some(_) => parts.min(lock(&queue).len() + 1),
                None => 1,
            };
            for _ in 1..others {
                scope.spawn(work);
            }
            let read = match first {
                Some(part) if part.0 == opened.from => {
                    let mut at = part.0;
                    self.read(opened.answer, &mut at, part.1, &over)
                }
                _ => Ok(()),
            };
            match read {
                Ok(()) => work(),
                Err(stopped) => fail(stopped),
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(stopped) => Err(stopped),
            None => Ok(()),
        }
    }

    /// One part, asked for again where it breaks off.
    fn part(&self, part: Part, etag: Option<&str>, over: &AtomicBool) -> Result<(), Stopped> {
        let (at, end) = (Mutex::new(part.0), part.1);
        let attempt = || {
            let mut at = lock(&at);
            let answer = self.client.ask(&Ask {
                from: *at,
                to: Some(end),
                version: etag,
                ..Ask::whole(self.url)
            })?;
            if answer.status() != 206 || strong_etag(&answer).as_deref() != etag {
                let problem = failed(self.url, "it has changed while it was fetched");
                return Err(Stopped::Changed(problem));
            }
            if range_of(&answer).is_none_or(|(starts, _)| starts != *at) {
                return Err(failed(self.url, "it answers another range").into());
            }
            self.read(answer, &mut at, end, over)
        };
        self.tried(&attempt)
    }

    /// Bytes from `at` to `end`, into their place.
    fn read(
        &self,
        mut answer: Response<Body>,
        at: &mut u64,
        end: u64,
        over: &AtomicBool,
    ) -> Result<(), Stopped> {
        let spool = &self.job.spool;
        let reader = answer.body_mut().with_config().limit(u64::MAX).reader();
        let mut watched = self.watched(reader.take(end.saturating_sub(*at)));
        let mut piece = vec![0; 256 << 10];
        while *at < end {
            let came = watched.next(&mut piece)?;
            if came == 0 {
                return Err(failed(self.url, format!("it ends at {at} of {end} bytes")).into());
            }
            spool
                .place(*at, &piece[..came])
                .map_err(|error| self.not_taken(&error))?;
            *at += came as u64;
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One byte after the other. What is sent again is held against what is there.
    fn in_order(&self, mut opened: Opened) -> Result<(), Stopped> {
        let spool = &self.job.spool;
        let body = opened.answer.body_mut().with_config();
        let mut watched = self.watched(body.limit(u64::MAX).reader());
        let mut piece = vec![0; 256 << 10];
        let mut seen = vec![0; piece.len()];
        let (mut at, mut room) = (opened.from, spool.total().unwrap_or(0));
        loop {
            let came = watched.next(&mut piece)?;
            if came == 0 {
                return Ok(());
            }
            let again = spool.watermark().saturating_sub(at);
            let again = usize::try_from(again).unwrap_or(usize::MAX).min(came);
            if again > 0 {
                spool
                    .read_at(&mut seen[..again], at)
                    .map_err(|error| self.not_taken(&error))?;
                if seen[..again] != piece[..again] {
                    let detail = "it has changed while it was fetched";
                    return Err(Stopped::Changed(failed(self.url, detail)));
                }
            }
            at += came as u64;
            self.allowed(at)?;
            if at > room {
                room = catalog::expected_after(at);
                self.reserve(at, room)?;
            }
            spool
                .append(&piece[again..came])
                .map_err(|error| self.not_taken(&error))?;
        }
    }

    fn watched<R: Read>(&self, from: R) -> Watched<'_, R> {
        let patience = Duration::from_secs(self.app.settings.stall_timeout);
        Watched::new(from, self.url, &self.app.metrics.received, patience)
    }

    fn not_taken(&self, error: &std::io::Error) -> Stopped {
        match self.wanted() {
            Err(stopped) => stopped,
            Ok(()) => Stopped::Everywhere(fault::of_machine("receiving", error)),
        }
    }

    fn reserve(&self, received: u64, expected: u64) -> Result<(), Stopped> {
        let reserved = catalog::receiving(self.app, &self.job.image, received, expected);
        Ok(self.runtime.block_on(reserved)?)
    }

    fn all_there(&self) -> Result<(), Stopped> {
        let spool = &self.job.spool;
        match spool.total() {
            Some(total) if spool.received() < total => {
                let there = spool.received();
                Err(failed(self.url, format!("{there} of {total} bytes came")).into())
            }
            _ => Ok(()),
        }
    }

    fn allowed(&self, bytes: u64) -> Result<(), Stopped> {
        upload::allowed(self.app, bytes)?;
        match self.import.max_bytes {
            Some(limit) if bytes > limit => {
                let detail = format!("it has {bytes} bytes, or more; `max_bytes` allows {limit}");
                let problem = Problem::new(TOO_LARGE, detail).with("limit", json!(limit));
                Err(Stopped::Everywhere(problem))
            }
            _ => Ok(()),
        }
    }
}

/// Where an answer's bytes begin, and how many there are in all.
fn range_of(answer: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let range = text(answer, header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
    let (bytes, total) = range.split_once('/')?;
    let (starts, _) = bytes.split_once('-')?;
    Some((starts.trim().parse().ok()?, total.trim().parse().ok()))
}

fn text(answer: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    answer.headers().get(name)?.to_str().ok()
}

fn pieces_of((begin, end): Part) -> impl Iterator<Item = Part> {
    (begin..end)
        .step_by(usize::try_from(PART).unwrap_or(usize::MAX))
        .map(move |at| (at, end.min(at + PART)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
