//! The page in the browser: files of the folder `web`, which are a part of the program. Debug builds read the folder.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::{EmbeddedFile, RustEmbed};
use sha2::{Digest, Sha256};

use crate::ingest::hex;
use crate::problem::{NOT_FOUND, Problem};
use crate::state::Shared;

#[derive(RustEmbed)]
#[folder = "web"]
struct Files;

/// Nothing but what is ours is loaded, and no script stands in a page. Consoles set styles from their scripts.
const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The page, and what it consists of.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(page))
        .route("/assets/{build}/{*path}", get(asset))
}

/// `index.html`, in which `{build}` is the build: what it names may be kept for good.
async fn page(headers: HeaderMap) -> Response {
    let Some(file) = Files::get("index.html") else {
        return Problem::new(NOT_FOUND, "this build has no page").into_response();
    };
    let text = String::from_utf8_lossy(&file.data).replace("{build}", build());
    let bytes = Bytes::from(text);
    let digest = Sha256::digest(&bytes).into();
    sent("index.html", bytes, digest, "no-cache", &headers)
}

async fn asset(Path((asked, path)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(EmbeddedFile { data, metadata }) = Files::get(&path) else {
        return Problem::new(NOT_FOUND, "the page has no such file").into_response();
    };
    let caching = caching(asked == build());
    let bytes = match data {
        std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => Bytes::from(bytes),
    };
    sent(&path, bytes, metadata.sha256_hash(), caching, &headers)
}

/// A debug build's files change under it.
const fn caching(is_this_build: bool) -> &'static str {
    match is_this_build && !cfg!(debug_assertions) {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    }
}

/// What all files are known by together.
fn build() -> &'static str {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD.get_or_init(|| {
        let mut all = Sha256::new();
        for name in Files::iter() {
            all.update(name.as_bytes());
            all.update(Files::get(&name).map_or([0; 32], |file| file.metadata.sha256_hash()));
        }
        let mut build = hex(&all.finalize());
        build.truncate(12);
        build
    })
}

fn sent(
    path: &str,
    bytes: Bytes,
    digest: [u8; 32],
    caching: &'static str,
    headers: &HeaderMap,
) -> Response {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = kind(path);
    let packed = is_text(kind) && text(header::ACCEPT_ENCODING).is_some_and(takes_gzip);
    let mut tag = hex(&digest);
    tag.truncate(32);
    let tag = format!("\"{tag}{}\"", if packed { "-gz" } else { "" });
    let seen = text(header::IF_NONE_MATCH).is_some_and(|seen| seen.contains(&tag));
    let mut answer = match (seen, packed) {
        (true, _) => StatusCode::NOT_MODIFIED.into_response(),
        (false, false) => bytes.into_response(),
        (false, true) => match gzipped(digest, &bytes) {
            Ok(packed) => ([(header::CONTENT_ENCODING, "gzip")], packed).into_response(),
            Err(error) => return Problem::internal(error).into_response(),
        },
    };
    let set = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, caching),
        (header::VARY, "Accept-Encoding"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        set.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        set.insert(header::ETAG, tag);
    }
    answer
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        _ => "text/plain; charset=utf-8",
    }
}

fn is_text(kind: &str) -> bool {
    kind.starts_with("text/") || ["application/json", "image/svg+xml"].contains(&kind)
}

fn takes_gzip(encodings: &str) -> bool {
    encodings.split(',').any(|encoding| {
        let (name, quality) = encoding.split_once(';').unwrap_or((encoding, ""));
        let refused = ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&quality.trim());
        name.trim() == "gzip" && !refused
    })
}

/// Every file is compressed once.
fn gzipped(digest: [u8; 32], bytes: &Bytes) -> std::io::Result<Bytes> {
    static DONE: OnceLock<Mutex<HashMap<[u8; 32], Bytes>>> = OnceLock::new();
    let done = DONE.get_or_init(Mutex::default);
    let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(packed) = lock().get(&digest) {
        return Ok(packed.clone());
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(bytes)?;
    let packed = Bytes::from(packer.finish()?);
    lock().insert(digest, packed.clone());
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packing_that_is_refused_is_not_sent() {
        assert!(takes_gzip("gzip, deflate, br"));
        assert!(takes_gzip("br;q=1.0, gzip;q=0.8"));
        assert!(!takes_gzip("gzip;q=0"));
        assert!(!takes_gzip("br"));
    }

    #[test]
    fn the_page_has_every_file_that_its_modules_name() {
        for name in
            Files::iter().filter(|name| name.ends_with(".js") && !name.starts_with("vendor"))
        {
            let text = Files::get(&name).unwrap().data;
            let text = String::from_utf8(text.into_owned()).unwrap();
            for line in text.lines() {
                let Some((_, named)) = line.split_once(" from '.") else {
                    continue;
                };
                let named = named.split('\'').next().unwrap();
                let folder = std::path::Path::new(&*name).parent().unwrap();
                let mut whole = std::path::PathBuf::new();
                for part in folder.join(format!(".{named}")).components() {
                    match part {
                        std::path::Component::ParentDir => drop(whole.pop()),
                        std::path::Component::Normal(part) => whole.push(part),
                        _ => {}
                    }
                }
                assert!(
                    Files::get(whole.to_str().unwrap()).is_some(),
                    "{name}: {named}"
                );
            }
        }
    }
}
