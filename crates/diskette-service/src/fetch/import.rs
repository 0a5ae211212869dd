//! Whether what is to be fetched may be.

use diskette_wire::Import;

use super::client::Client;
use crate::problem::{Problem, Result, URL_REFUSED};
use crate::settings::Settings;

/// What can be judged before anything is asked.
pub(crate) fn check(settings: &Settings, import: &Import) -> Result<()> {
    let client = Client::new(settings, import.has_digest());
    for address in import.addresses() {
        client.allowed(address)?;
    }
    if !import.mirrors.is_empty() && !import.has_digest() {
        return Err(Problem::new(URL_REFUSED, "mirrors need a digest"));
    }
    if let Some(signature) = &import.checksum_signature {
        signature.check_keys()?;
    }
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
