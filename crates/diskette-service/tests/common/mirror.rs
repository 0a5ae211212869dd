//! A server of files that misbehaves as it is told, and writes down what it was asked for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A server of files.
#[derive(Clone)]
pub struct Mirror {
    pub address: String,
    files: Arc<Mutex<BTreeMap<String, File>>>,
    asked: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicU64>,
    connections: Arc<AtomicUsize>,
}

/// What it gives under a path.
#[derive(Clone)]
pub struct File {
    pub bytes: Arc<Vec<u8>>,
    pub etag: Option<String>,
    pub ranges: bool,
    pub how: How,
    pub asked: usize,
}

/// How it misbehaves.
#[derive(Clone, Debug)]
pub enum How {
    Well,
    /// So many bytes in a second.
    Slow(u64),
    /// It closes after so many bytes, the first so many times.
    Cut(usize, usize),
    /// It goes silent after so many bytes, the first so many times.
    Stall(usize, usize),
    /// It answers with this status, the first so many times.
    Status(u16, usize),
    /// It leads on to this address.
    To(String),
    /// It says that there are so many bytes more than it gives.
    Short(usize),
    /// After so many requests it is this, under another ETag.
    Becomes(usize, Arc<Vec<u8>>),
    /// It gives another range than the one that is asked for.
    OtherRange,
}

impl File {
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: Arc::new(bytes.to_vec()),
            etag: Some("\"1\"".to_owned()),
            ranges: true,
            how: How::Well,
            asked: 0,
        }
    }

    pub fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    pub fn without_etag(mut self) -> Self {
        self.etag = None;
        self
    }
}

impl Mirror {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mirror = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            files: Arc::default(),
            asked: Arc::default(),
            sent: Arc::default(),
            connections: Arc::default(),
        };
        let own = mirror.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                own.connections.fetch_add(1, Ordering::Relaxed);
                let own = own.clone();
                thread::spawn(move || {
                    let _ = own.answer(&stream.unwrap());
                });
            }
        });
        mirror
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    pub fn put(&self, path: &str, file: File) -> String {
        self.files.lock().unwrap().insert(format!("/{path}"), file);
        self.url(path)
    }

    /// Method, path and range of each request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Bytes of bodies.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let method = words.next().unwrap_or("").to_owned();
        let path = words.next().unwrap_or("").to_owned();
        let (mut range, mut if_range, mut if_none) = (None, None, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(": ") else {
                break;
            };
            let value = value.to_owned();
            match name.to_lowercase().as_str() {
                "range" => range = Some(value),
                "if-range" => if_range = Some(value),
                "if-none-match" => if_none = Some(value),
                _ => {}
            }
        }
        let told = range.clone().unwrap_or_default();
        let told = format!("{method} {path} {told}").trim_end().to_owned();
        self.asked.lock().unwrap().push(told);
        let found = {
            let mut files = self.files.lock().unwrap();
            files.get_mut(&path).map(|file| {
                file.asked += 1;
                if let How::Becomes(after, bytes) = file.how.clone()
                    && file.asked > after
                {
                    file.bytes = bytes;
                    file.etag = Some("\"2\"".to_owned());
                    file.how = How::Well;
                }
                file.clone()
            })
        };
        let Some(file) = found else {
            return plain(stream, "404 Not Found", "");
        };
        match &file.how {
            How::To(to) => return plain(stream, "302 Found", &format!("Location: {to}\r\n")),
            How::Status(status, times) if file.asked <= *times => {
                return plain(stream, &format!("{status} Status"), "");
            }
            _ => {}
        }
        if if_none.is_some() && if_none == file.etag {
            return plain(stream, "304 Not Modified", "");
        }
        let same = if_range.is_none() || if_range == file.etag;
        let range = range.filter(|_| file.ranges && same);
        self.give(stream, &file, range.as_deref(), method == "HEAD")
    }

    fn give(
        &self,
        mut stream: &TcpStream,
        file: &File,
        range: Option<&str>,
        head: bool,
    ) -> std::io::Result<()> {
        let whole = file.bytes.len();
        let (mut from, mut to) = (0, whole);
        if let Some(range) = range {
            let range = range.strip_prefix("bytes=").unwrap();
            let (begin, end) = range.split_once('-').unwrap();
            from = begin.parse::<usize>().unwrap();
            if !end.is_empty() {
                to = whole.min(end.parse::<usize>().unwrap() + 1);
            }
            if from >= whole {
                return plain(
                    stream,
                    "416 Range",
                    &format!("Content-Range: bytes */{whole}\r\n"),
                );
            }
            if matches!(file.how, How::OtherRange) {
                from += 1;
            }
        }
        let body = &file.bytes[from..to];
        let mut headers = String::new();
        if let Some(etag) = &file.etag {
            headers += &format!("ETag: {etag}\r\n");
        }
        if file.ranges {
            headers += "Accept-Ranges: bytes\r\n";
        }
        let status = match range {
            Some(_) => {
                headers += &format!("Content-Range: bytes {from}-{}/{whole}\r\n", to - 1);
                "206 Partial Content"
            }
            None => "200 OK",
        };
        let len = match file.how {
            How::Short(more) => body.len() + more,
            _ => body.len(),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n"
        )?;
        if head {
            return Ok(());
        }
        let (end, slow) = match file.how {
            How::Cut(after, times) | How::Stall(after, times) if file.asked <= times => {
                (after.min(body.len()), None)
            }
            How::Slow(rate) => (body.len(), Some(rate)),
            _ => (body.len(), None),
        };
        for piece in body[..end].chunks(64 << 10) {
            stream.write_all(piece)?;
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Some(rate) = slow {
                thread::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64));
            }
        }
        if matches!(file.how, How::Stall(_, times) if file.asked <= times) {
            thread::sleep(Duration::from_secs(20));
        }
        Ok(())
    }
}

fn plain(mut stream: &TcpStream, status: &str, headers: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
}
