//! Host bytes in object stores that speak S3: read by range requests, and put there while they are made.
//!
//! ```text
//!  S3Storage:  read_at ─► blocks, some kept ─► range requests, all for the same ETag
//!  S3Upload:   write ─► parts ─► uploaded beside one another ─► complete, or aborted
//! ```
//!
//! An address is `s3://BUCKET/KEY`. All else comes from the environment, as it does for other programs:
//! `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, and for servers other than Amazon's
//! `AWS_ENDPOINT_URL`; a plain `http://` one takes `AWS_ALLOW_HTTP=true`. Buckets are named in the path, unless
//! `AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true`; `AWS_SKIP_SIGNATURE=true` reads what all may read.
//!
//! The object store's client is asynchronous. It stays in here: calls block, on a small runtime of the object's own.

#![forbid(unsafe_code)]

mod connector;
mod object;
mod source;
mod upload;

pub use source::S3Storage;
pub use upload::S3Upload;

/// Whether this is an address of an object: `s3://BUCKET/KEY`.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("s3"))
}
