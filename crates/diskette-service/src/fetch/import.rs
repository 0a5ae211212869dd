//! What is to be fetched, and whether it may be.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::client::Client;
use super::signature::{Signature, check_keys};
use crate::catalog::name_of_file;
use crate::ingest::Wanted;
use crate::problem::{Problem, Result, URL_REFUSED};
use crate::settings::Settings;

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
    /// Who has signed the checksum file.
    pub(crate) checksum_signature: Option<Signature>,
    /// A label; from the address, if it is not said.
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    /// Most bytes to be fetched: below the setting `max_upload`.
    pub(crate) max_bytes: Option<u64>,
    #[serde(flatten)]
    pub(crate) wanted: Wanted,
}

impl Import {
    pub(super) fn has_digest(&self) -> bool {
        self.wanted.sha256.is_some() || self.wanted.sha512.is_some() || self.checksum_url.is_some()
    }

    /// All addresses, in the order in which they are asked.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.url).chain(&self.mirrors)
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
    for address in import.addresses() {
        client.allowed(address)?;
    }
    if !import.mirrors.is_empty() && !import.has_digest() {
        return Err(Problem::new(URL_REFUSED, "mirrors need a digest"));
    }
    check_keys(import.checksum_signature.as_ref())?;
    match &import.checksum_url {
        Some(url) => {
            let client = Client::new(settings, import.checksum_signature.is_some());
            client.allowed(url)?;
            let beside = import.checksum_signature.as_ref();
            if let Some(url) = beside.and_then(|signature| signature.url.as_deref()) {
                client.allowed(url)?;
            }
            Ok(())
        }
        None if import.checksum_signature.is_some() => Err(Problem::bad_request(
            "a signature needs a checksum file (`checksum_url`)",
        )),
        None => Ok(()),
    }
}
