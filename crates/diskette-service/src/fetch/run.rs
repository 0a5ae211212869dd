//! An import: an image that is fetched, and converted while it comes.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use ureq::http::header;
use utoipa::ToSchema;

use super::checksum::digest_of;
use super::client::{Client, failed, may_pass};
use crate::catalog::{self, Row, name_of_file};
use crate::fault;
use crate::ingest::{Files, Job, Wanted};
use crate::problem::{
    CHECKSUM_MISMATCH, DOWNLOAD_FAILED, MIRRORS_EXHAUSTED, Problem, Result, TOO_LARGE, URL_REFUSED,
};
use crate::settings::Settings;
use crate::spool::Spool;
use crate::state::Shared;
use crate::{upload, work};

/// An image to be fetched.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Import {
    pub(crate) url: String,
    /// Other addresses of the same bytes, asked when the first does not deliver. A digest is needed then.
    pub(crate) mirrors: Vec<String>,
    /// A checksum file of the publisher's.
    pub(crate) checksum_url: Option<String>,
    /// The file's name in it, where that is not the end of the address.
    pub(crate) checksum_name: Option<String>,
    /// A label; from the address, if it is not said.
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    /// Most bytes to be fetched: below the setting `max_upload`.
    pub(crate) max_bytes: Option<u64>,
    #[serde(flatten)]
    pub(crate) wanted: Wanted,
}

/// How often one server is asked.
const TRIES: usize = 4;
/// Most bytes of a checksum file.
const LONGEST_CHECKSUMS: u64 = 4 << 20;

impl Import {
    fn has_digest(&self) -> bool {
        self.wanted.sha256.is_some() || self.wanted.sha512.is_some() || self.checksum_url.is_some()
    }

    /// The last part of the address.
    pub(crate) fn file_name(&self) -> String {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn label(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| name_of_file(&self.file_name()))
    }
}

/// What can be judged before anything is asked.
pub(crate) fn check(settings: &Settings, import: &Import) -> Result<()> {
    let client = Client::new(settings, import.has_digest());
    client.allowed(&import.url)?;
    for mirror in &import.mirrors {
        client.allowed(mirror)?;
    }
    if !import.mirrors.is_empty() && !import.has_digest() {
        return Err(Problem::new(URL_REFUSED, "mirrors need a digest"));
    }
    if let Some(url) = &import.checksum_url {
        Client::new(settings, false).allowed(url)?;
    }
    Ok(())
}

/// Begins to fetch what a row says.
pub(crate) fn begin(app: &Shared, row: &Row, import: Import, spool: Arc<Spool>) {
    let job = Arc::new(Job::new(
        row,
        import.wanted.clone(),
        spool,
        Arc::new(Files::default()),
    ));
    job.files.close();
    let _outcome = work::start(app, Arc::clone(&job));
    let app = Arc::clone(app);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let fetch = Fetch {
            app: &app,
            job: &job,
            import: &import,
            runtime,
        };
        if let Err(problem) = fetch.run() {
            job.give_up(problem);
        }
    });
}

/// Goes on with what another run of the service has begun.
pub(crate) fn resume(app: &Shared, row: &Row) -> Result<()> {
    let import: Import = serde_json::from_str(&row.source).map_err(Problem::internal)?;
    let path = app.store.spool_of(&row.id);
    let machine = |error| fault::of_machine("receiving", &error);
    let spool = match Spool::resume(&path) {
        // Without a digest nobody knows whether the rest belongs to what is there.
        Ok(spool) if import.has_digest() || spool.is_whole() => spool,
        _ => {
            crate::spool::remove(&path).map_err(machine)?;
            Spool::create(&path, None).map_err(machine)?
        }
    };
    begin(app, row, import, spool);
    Ok(())
}

struct Fetch<'a> {
    app: &'a Shared,
    job: &'a Arc<Job>,
    import: &'a Import,
    runtime: tokio::runtime::Handle,
}

impl Fetch<'_> {
    fn run(&self) -> Result<()> {
        let settings = &self.app.settings;
        self.promise(settings)?;
        if self.job.spool.is_whole() {
            return Ok(());
        }
        let client = Client::new(settings, self.import.has_digest());
        let mut failures = Vec::new();
        for url in std::iter::once(&self.import.url).chain(&self.import.mirrors) {
            match self.fetch(&client, url) {
                Ok(()) => {
                    let finished = self.job.spool.finish();
                    return finished
                        .map(|_| ())
                        .map_err(|error| fault::of_machine("receiving", &error));
                }
                Err(problem) if problem.code == DOWNLOAD_FAILED => failures.push(problem),
                Err(problem) => return Err(problem),
            }
        }
        match failures.len() {
            0 | 1 => Err(failures
                .pop()
                .unwrap_or_else(|| failed(&self.import.url, "nothing came"))),
            _ => {
                let details: Vec<_> = failures.into_iter().map(|failure| failure.detail).collect();
                Err(Problem::new(MIRRORS_EXHAUSTED, details.join("; ")))
            }
        }
    }

    /// What the publisher's checksum file says.
    fn promise(&self, settings: &Settings) -> Result<()> {
        let Some(url) = &self.import.checksum_url else {
            return Ok(());
        };
        let client = Client::new(settings, false);
        let mut answer = client.get(url, 0, None)?;
        let body = answer.body_mut().with_config().limit(LONGEST_CHECKSUMS);
        let text = body.read_to_string().map_err(|error| failed(url, error))?;
        let own = self.import.file_name();
        let name = self.import.checksum_name.as_deref().unwrap_or(&own);
        let Some(digest) = digest_of(&text, name) else {
            let detail = format!("{url} has no digest of \"{}\"", name.escape_debug());
            return Err(Problem::new(CHECKSUM_MISMATCH, detail));
        };
        self.job.promise(Some(digest));
        Ok(())
    }

    fn fetch(&self, client: &Client, url: &str) -> Result<()> {
        let mut version: Option<String> = None;
        let mut outcome = Ok(());
        for attempt in 0..TRIES {
            if attempt > 0 {
                thread::sleep(Duration::from_millis(200 << (2 * attempt)));
            }
            outcome = self.attempt(client, url, &mut version);
            match &outcome {
                Err(problem) if may_pass(problem) && !self.job.is_cancelled() => {
                    tracing::info!(url, detail = problem.detail, "fetching is tried again");
                }
                _ => break,
            }
        }
        outcome
    }

    fn attempt(&self, client: &Client, url: &str, version: &mut Option<String>) -> Result<()> {
        let spool = &self.job.spool;
        let from = spool.watermark();
        let mut answer = client.get(url, from, version.as_deref())?;
        let headers = answer.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        *version = text(header::ETAG)
            .filter(|tag| !tag.starts_with("W/"))
            .map(str::to_owned);
        let len: Option<u64> = text(header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
        let (skip, total) = match answer.status().as_u16() {
            416 => (0, spool.total()),
            206 => {
                let range = text(header::CONTENT_RANGE).unwrap_or_default();
                let starts = range
                    .strip_prefix("bytes ")
                    .and_then(|range| range.split('-').next()?.parse().ok());
                if starts != Some(from) {
                    return Err(failed(
                        url,
                        format!("it answers another range: {}", range.escape_debug()),
                    ));
                }
                (
                    0,
                    range
                        .rsplit('/')
                        .next()
                        .and_then(|total| total.parse().ok()),
                )
            }
            // From the beginning again: what has come is passed over.
            _ => (from, len),
        };
        if let Some(total) = total {
            self.allowed(total)?;
            match spool.total() {
                Some(known) if known != total => {
                    return Err(failed(url, "the file has another size now"));
                }
                Some(_) => {}
                None => spool
                    .set_total(total)
                    .map_err(|error| fault::of_machine("receiving", &error))?,
            }
        }
        if answer.status() == 416 {
            return self.all_there(url);
        }
        let reader = answer.body_mut().with_config().limit(u64::MAX).reader();
        self.take(url, reader, skip)?;
        self.all_there(url)
    }

    fn take(&self, url: &str, mut from: impl Read, mut skip: u64) -> Result<()> {
        let spool = &self.job.spool;
        let mut piece = vec![0; 256 << 10];
        let mut room = 0;
        loop {
            let came = from.read(&mut piece).map_err(|error| failed(url, error))?;
            if came == 0 {
                return Ok(());
            }
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(came);
            skip -= passed as u64;
            let end = spool.watermark().saturating_add((came - passed) as u64);
            self.allowed(end)?;
            if end > room {
                room = match spool.total() {
                    Some(total) => total,
                    None => catalog::expected_after(end),
                };
                let reserved = catalog::receiving(self.app, &self.job.image, end, room);
                self.runtime.block_on(reserved)?;
            }
            let taken = spool.append(&piece[passed..came]);
            taken.map_err(|error| fault::of_machine("receiving", &error))?;
            self.app
                .metrics
                .received
                .fetch_add(came as u64, Ordering::Relaxed);
        }
    }

    fn all_there(&self, url: &str) -> Result<()> {
        let there = self.job.spool.watermark();
        match self.job.spool.total() {
            Some(total) if there < total => {
                Err(failed(url, format!("{there} of {total} bytes came")))
            }
            _ => Ok(()),
        }
    }

    fn allowed(&self, bytes: u64) -> Result<()> {
        upload::allowed(self.app, bytes)?;
        match self.import.max_bytes {
            Some(limit) if bytes > limit => {
                let detail = format!("it has {bytes} bytes, or more; `max_bytes` allows {limit}");
                Err(Problem::new(TOO_LARGE, detail).with("limit", json!(limit)))
            }
            _ => Ok(()),
        }
    }
}
