//! `images add`: a file is sent by tus, so that sending it again goes on; a stream by PUT; an address is fetched by the service.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};
use ureq::SendBody;

use super::http::segment;
use super::images::{self, outcome, path_of};
use super::mark::Mark;
use super::meter::{Meter, say};
use super::stop::Stop;
use super::{Client, Failure, Result, show};
use crate::catalog::name_of_file;

/// What is sent, and how it is to be taken.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// A file, `-`, or an address that begins with http
    source: String,
    /// A label [default: the file's name without its suffix]
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// A tag; can be said several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// What runs in it
    #[arg(long)]
    os: Option<String>,
    /// The SHA-256 that the bytes must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// For an address: the SHA-512 that the bytes must have
    #[arg(long, value_name = "HEX")]
    sha512: Option<String>,
    /// For an address: the publisher's file of checksums
    #[arg(long, value_name = "URL")]
    checksum_url: Option<String>,
    /// For an address: another one of the same bytes; can be said several times
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// The format, where the content is not to be asked: raw, ...
    #[arg(long)]
    format: Option<String>,
    /// Which disk of an archive
    #[arg(long)]
    disk: Option<String>,
    /// Store it compressed
    #[arg(long)]
    compress: bool,
    /// Refuse it if its name lies about its content
    #[arg(long)]
    strict: bool,
    /// Have a name that is taken stand for this image from now on
    #[arg(long)]
    overwrite: bool,
    /// Begin anew, also where a part has been sent before
    #[arg(long)]
    anew: bool,
}

/// Bytes of one request: what is lost at most when the line is cut.
const PIECE: u64 = 16 << 20;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a service that does not answer is asked again: for about half a minute.
const TRIES: u32 = 6;

const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
const SENT: usize = 0;
const CONVERTED: usize = 1;

pub(super) fn run(client: &Client, add: &Add) -> Result<()> {
    let stop = Stop::listen()?;
    let meter = Meter::new(client, &["sent", "converted"]);
    let work = Work {
        client,
        add,
        stop,
        meter,
    };
    let made = match add.source.as_str() {
        "-" => work.stream(),
        address if address.starts_with("http://") || address.starts_with("https://") => {
            work.address(address)
        }
        path => work.file(Path::new(path)),
    };
    work.meter.end();
    let image = made?;
    match client.json {
        true => show::json(&image),
        false => images::facts(&image),
    }
}

struct Work<'a> {
    client: &'a Client,
    add: &'a Add,
    stop: Stop,
    meter: Meter,
}

impl Work<'_> {
    fn file(&self, path: &Path) -> Result<Value> {
        let named = path.display().to_string();
        let file = File::open(path).map_err(Failure::of(&named))?;
        let mark = Mark::of(self.client, path, &file, &self.name_for(&named))
            .map_err(Failure::of(&named))?;
        let size = mark.size;
        let known = match self.add.anew {
            true => None,
            false => mark.upload().filter(|upload| self.is_open(upload)),
        };
        let upload = match known {
            Some(upload) => {
                if !self.client.quiet {
                    say("going on with what was sent before");
                }
                upload
            }
            None => self.begin(&named, size)?,
        };
        // Without a mark the file is sent whole the next time.
        let _ = mark.keep(&upload);
        let image = image_of(&upload).to_owned();
        let sent = self.beside(&image, || self.send(&upload, &file, size));
        match sent {
            Err(Failure::Interrupted(_)) => {
                return Err(Failure::Interrupted(
                    ": the same command goes on with what has been sent".to_owned(),
                ));
            }
            Err(failure @ Failure::Unreachable { .. }) => return Err(failure),
            Err(failure) => {
                mark.forget();
                // The image tells more than the upload that it has ended.
                return Err(self.until_settled(&image).err().unwrap_or(failure));
            }
            Ok(()) => {}
        }
        let settled = self.until_settled(&image);
        if !matches!(
            settled,
            Err(Failure::Interrupted(_) | Failure::Unreachable { .. })
        ) {
            mark.forget();
        }
        settled
    }

    fn stream(&self) -> Result<Value> {
        let name = self.add.name.clone();
        let name =
            name.ok_or_else(|| Failure::Told("what comes as a stream needs a --name".to_owned()))?;
        let mut new = self.wanted();
        new.insert("name".to_owned(), json!(name));
        let made = self
            .client
            .call("POST", "/api/v1/images", Some(&Value::Object(new)))?;
        let image = made["id"].as_str().unwrap_or_default().to_owned();
        let count = AtomicU64::new(0);
        let mut input = Counted {
            from: io::stdin().lock(),
            count: &count,
            work: self,
            total: 0,
        };
        let headers = [
            ("content-type", "application/octet-stream"),
            ("prefer", "respond-async"),
        ];
        let path = format!("{}/file", path_of(&image));
        let sent = self.beside(&image, || {
            let body = SendBody::from_reader(&mut input);
            self.client.request("PUT", &path, &headers, body)
        });
        if self.stop.is_asked() {
            return Err(Failure::Interrupted(String::new()));
        }
        match sent {
            Ok(_) => self.until_settled(&image),
            // What was wrong with the image tells more than that the service hung up.
            Err(Failure::Unreachable { server, why }) => Err(self
                .until_settled(&image)
                .err()
                .unwrap_or(Failure::Unreachable { server, why })),
            Err(failure) => Err(failure),
        }
    }

    fn address(&self, address: &str) -> Result<Value> {
        let mut wanted = self.wanted();
        wanted.remove("file_name");
        wanted.insert("url".to_owned(), json!(address));
        for (name, value) in [
            ("name", json!(self.add.name)),
            ("sha512", json!(self.add.sha512)),
            ("checksum_url", json!(self.add.checksum_url)),
            ("mirrors", json!(self.add.mirrors)),
        ] {
            if !value.is_null() {
                wanted.insert(name.to_owned(), value);
            }
        }
        let begun = self
            .client
            .call("POST", "/api/v1/imports", Some(&Value::Object(wanted)))?;
        self.until_settled(begun["id"].as_str().unwrap_or_default())
    }

    /// What is asked of the image, as JSON.
    fn wanted(&self) -> Map<String, Value> {
        let Add {
            description,
            tags,
            os,
            sha256,
            format,
            disk,
            ..
        } = self.add;
        let mut wanted = Map::new();
        for (name, value) in [
            ("description", description),
            ("os", os),
            ("sha256", sha256),
            ("format", format),
            ("disk", disk),
        ] {
            if let Some(value) = value {
                wanted.insert(name.to_owned(), json!(value));
            }
        }
        wanted.insert("tags".to_owned(), json!(tags));
        for (name, on) in self.switches() {
            wanted.insert(name.to_owned(), json!(on));
        }
        wanted
    }

    fn switches(&self) -> [(&'static str, bool); 3] {
        [
            ("compress", self.add.compress),
            ("strict", self.add.strict),
            ("overwrite", self.add.overwrite),
        ]
    }

    fn name_for(&self, path: &str) -> String {
        let name = self.add.name.clone();
        name.unwrap_or_else(|| name_of_file(path))
    }

    /// Begins an upload; gives its path.
    fn begin(&self, path: &str, size: u64) -> Result<String> {
        let file_name = Path::new(path).file_name().unwrap_or_default();
        let mut metadata = vec![
            ("filename", file_name.to_string_lossy().into_owned()),
            ("name", self.name_for(path)),
        ];
        for (name, value) in self.wanted() {
            let (name, value) = match (name.as_str(), value) {
                ("description", Value::String(text)) => ("description", text),
                ("os", Value::String(text)) => ("os", text),
                ("sha256", Value::String(text)) => ("sha256", text),
                ("format", Value::String(text)) => ("format", text),
                ("disk", Value::String(text)) => ("disk", text),
                _ => continue,
            };
            metadata.push((name, value));
        }
        if !self.add.tags.is_empty() {
            metadata.push(("tags", self.add.tags.join(",")));
        }
        for (name, on) in self.switches() {
            metadata.push((name, on.to_string()));
        }
        let metadata: Vec<_> = metadata
            .iter()
            .map(|(name, value)| format!("{name} {}", STANDARD.encode(value)))
            .collect();
        let headers = [
            TUS,
            ("upload-length", &size.to_string()),
            ("upload-metadata", &metadata.join(",")),
            ("content-length", "0"),
        ];
        let made = self
            .client
            .request("POST", "/api/v1/uploads", &headers, SendBody::none())?;
        let location = made.headers().get("location");
        let location = location.and_then(|location| location.to_str().ok());
        let id = location
            .and_then(|location| location.rsplit('/').next())
            .filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Failure::Told("the service names no upload".to_owned()))?;
        Ok(format!("/api/v1/uploads/{}", segment(id)))
    }

    /// Whether the upload of an earlier call can be gone on with.
    fn is_open(&self, upload: &str) -> bool {
        let image = self.client.get(&path_of(image_of(upload)));
        let state = image.map(|image| show::text(&image["state"]));
        let in_work = ["receiving", "converting", "verifying"];
        state.is_ok_and(|state| in_work.contains(&state.as_str())) && self.offset(upload).is_ok()
    }

    fn offset(&self, upload: &str) -> Result<u64> {
        let answer = self
            .client
            .request("HEAD", upload, &[TUS], SendBody::none())?;
        let offset = answer.headers().get("upload-offset");
        let offset = offset.and_then(|offset| offset.to_str().ok()?.parse().ok());
        offset.ok_or_else(|| Failure::Told("the service tells no offset".to_owned()))
    }

    /// Sends what is missing. A line that is cut is tried again for a while.
    fn send(&self, upload: &str, file: &File, size: u64) -> Result<()> {
        let mut offset = self.offset(upload)?;
        let mut failed = 0;
        loop {
            self.meter.tell(SENT, offset, size);
            if offset >= size {
                return Ok(());
            }
            let sent = self.piece(upload, file, offset, size);
            if self.stop.is_asked() {
                return Err(Failure::Interrupted(String::new()));
            }
            offset = match sent {
                Ok(()) => {
                    failed = 0;
                    (offset + PIECE).min(size)
                }
                Err(failure) if may_be_tried_again(&failure) && failed < TRIES => {
                    failed += 1;
                    sleep(Duration::from_millis(500 << failed.min(4)));
                    match self.offset(upload) {
                        Err(failure) if !may_be_tried_again(&failure) => return Err(failure),
                        there => there.unwrap_or(offset),
                    }
                }
                Err(failure) => return Err(failure),
            };
        }
    }

    fn piece(&self, upload: &str, mut file: &File, offset: u64, size: u64) -> Result<()> {
        let len = PIECE.min(size - offset);
        let read = Failure::of("reading the file");
        file.seek(SeekFrom::Start(offset)).map_err(read)?;
        let count = AtomicU64::new(offset);
        let mut bytes = Counted {
            from: file.take(len),
            count: &count,
            work: self,
            total: size,
        };
        let headers = [
            TUS,
            ("content-type", "application/offset+octet-stream"),
            ("upload-offset", &offset.to_string()),
            ("content-length", &len.to_string()),
        ];
        let body = SendBody::from_reader(&mut bytes);
        self.client
            .request("PATCH", upload, &headers, body)
            .map(drop)
    }

    /// Runs `work`, and meanwhile shows how far the conversion is.
    fn beside<T>(&self, image: &str, work: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(image) = self.client.get(&path_of(image)) {
                        self.converted(&image);
                    }
                    sleep(PAUSE);
                }
            });
            let done = work();
            over.store(true, Ordering::Relaxed);
            done
        })
    }

    fn converted(&self, image: &Value) {
        let number = |name: &str| image["progress"][name].as_u64().unwrap_or(0);
        let total = number("guest_total");
        if total > 0 {
            self.meter
                .tell(CONVERTED, number("guest_done").min(total), total);
        }
    }

    /// The image, when nothing is done with it any more and it is well.
    fn until_settled(&self, image: &str) -> Result<Value> {
        let path = path_of(image);
        let mut failed = 0;
        loop {
            match self.client.get(&path) {
                Ok(image) => {
                    failed = 0;
                    let number = |name: &str| image["progress"][name].as_u64().unwrap_or(0);
                    let (done, total) = (number("bytes_received"), number("bytes_total"));
                    self.meter.tell(SENT, done, total.max(done));
                    self.converted(&image);
                    let state = image["state"].as_str().unwrap_or_default();
                    if ["ready", "failed", "expired"].contains(&state) {
                        return outcome(&image).map(|()| image);
                    }
                }
                Err(failure) if may_be_tried_again(&failure) && failed < TRIES => {
                    failed += 1;
                    sleep(Duration::from_millis(500 << failed.min(4)));
                }
                Err(failure) => return Err(failure),
            }
            if self.stop.is_asked() {
                let told = format!("; the service goes on: `diskette-service images get {image}`");
                return Err(Failure::Interrupted(told));
            }
            sleep(PAUSE);
        }
    }
}

/// A line that was cut, a service that starts again, a request before this one that has not ended.
fn may_be_tried_again(failure: &Failure) -> bool {
    matches!(failure, Failure::Unreachable { .. })
        || failure.is("LOCKED")
        || failure.is("OFFSET_CONFLICT")
        || matches!(failure, Failure::Refused(refusal) if [502, 503, 504].contains(&refusal.status))
}

/// An upload and its image have one id.
fn image_of(upload: &str) -> &str {
    upload.rsplit('/').next().unwrap_or_default()
}

/// A reader that shows how much was read, and ends when it is to end.
struct Counted<'a, R> {
    from: R,
    count: &'a AtomicU64,
    work: &'a Work<'a>,
    /// Zero where it is not known.
    total: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.work.stop.is_asked() {
            return Err(io::Error::other("interrupted"));
        }
        let len = self.from.read(into)?;
        let before = self.count.fetch_add(len as u64, Ordering::Relaxed);
        let done = before + len as u64;
        self.work.meter.tell(SENT, done, self.total.max(done));
        Ok(len)
    }
}
