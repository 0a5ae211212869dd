//! One object of a store, and the runtime on which its requests are waited for.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::time::Duration;

use diskette_core::{Error, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use crate::connector::Connector;

/// An object: where it is, and how it is reached.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) address: String,
    pub(crate) key: Path,
    pub(crate) store: AmazonS3,
    pub(crate) runtime: Runtime,
}

/// How often a request is tried again if nothing comes.
const TRIES: usize = 5;
/// How long that may take in all.
const PATIENCE: Duration = Duration::from_secs(180);

impl Object {
    /// The object at an address. Nothing is asked of the store yet.
    pub(crate) fn at(address: &str) -> io::Result<Self> {
        let (bucket, key) = split(address)?;
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_http_connector(Connector)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: TRIES,
                retry_timeout: PATIENCE,
            })
            .build()
            .map_err(told)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()?;
        Ok(Self {
            address: address.to_owned(),
            key,
            store,
            runtime,
        })
    }

    /// The library's error for what could not be done with the object as a whole.
    pub(crate) fn failed(address: &str, op: &'static str, source: io::Error) -> Error {
        Error::File {
            op,
            path: address.to_owned(),
            source,
        }
    }
}

/// Opens what is at an address.
pub(crate) fn open(address: &str) -> Result<Object> {
    Object::at(address).map_err(|source| Object::failed(address, "open", source))
}

fn split(address: &str) -> io::Result<(&str, Path)> {
    let wrong = |why| io::Error::new(ErrorKind::InvalidInput, why);
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || key.is_empty() {
        return Err(wrong("not of the form s3://BUCKET/KEY"));
    }
    let parsed = Path::parse(key).ok().filter(|path| path.as_ref() == key);
    let parsed = parsed.ok_or_else(|| wrong("not a key that can be named in an address"))?;
    Ok((bucket, parsed))
}

/// An error of the store's in one line: what it is for the program, and its words for people.
pub(crate) fn told(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, words(&error))
}

/// The longest of a server's words that are passed on.
const MOST_WORDS: usize = 500;

fn words(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").chars().take(MOST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_bucket_and_a_key() {
        let (bucket, key) = split("s3://images/a b/disk.qcow2").unwrap();
        assert_eq!((bucket, key.as_ref()), ("images", "a b/disk.qcow2"));
        for wrong in [
            "s3://",
            "s3://images",
            "s3://images/",
            "s3:///key",
            "s3://b//key",
            "s3://b/a/../c",
        ] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
