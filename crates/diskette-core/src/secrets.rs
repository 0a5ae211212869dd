//! Passphrases and keys, by the names under which options ask for them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{Error, Options, Result};

/// Secrets by their ids, as `--object secret,id=...` gives them. A copy shares the bytes; they are overwritten when the
/// last one goes.
///
/// ```
/// use diskette_core::{Options, Secrets};
/// let mut secrets = Secrets::default();
/// secrets.set("sec0", b"open sesame".to_vec());
/// let mut options = Options::new();
/// options.set("encrypt.key-secret", "sec0");
/// let secret = secrets.asked_for("qcow2", &options, "encrypt.key-secret")?;
/// assert_eq!(secret, Some(&b"open sesame"[..]));
/// # Ok::<(), diskette_core::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Secrets {
    by_id: Arc<BTreeMap<String, Zeroizing<Vec<u8>>>>,
}

impl Secrets {
    /// Adds one, or replaces the one of this id.
    pub fn set(&mut self, id: impl Into<String>, secret: impl Into<Zeroizing<Vec<u8>>>) {
        Arc::make_mut(&mut self.by_id).insert(id.into(), secret.into());
    }

    /// The secret of this id.
    pub fn get(&self, id: &str) -> Result<&[u8]> {
        match self.by_id.get(id) {
            Some(secret) => Ok(secret),
            None => Err(Error::NotFound {
                what: "secret",
                name: id.to_owned(),
            }),
        }
    }

    /// The secret whose id is the value of an option of `format`; `None` where the option is not given.
    pub fn asked_for(
        &self,
        format: &'static str,
        options: &Options,
        name: &str,
    ) -> Result<Option<&[u8]>> {
        let Some(id) = options.text(name) else {
            return Ok(None);
        };
        let found = self.get(id);
        found.map(Some).map_err(|_| {
            Error::invalid_option(format, name, format!("no secret has the id \"{id}\""))
        })
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_id.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let mut secrets = Secrets::default();
        secrets.set("sec0", b"open sesame".to_vec());
        let copy = secrets.clone();
        secrets.set("sec1", b"other".to_vec());
        assert_eq!(
            format!("{secrets:?} {copy:?}"),
            r#"{"sec0", "sec1"} {"sec0"}"#
        );
        assert!(copy.get("sec1").is_err());
    }

    #[test]
    fn an_option_that_names_no_secret_is_told_by_its_name() {
        let options: Options = [("key-secret", "x")].into_iter().collect();
        let secrets = Secrets::default();
        let error = secrets.asked_for("luks", &options, "key-secret");
        assert_eq!(
            error.unwrap_err().to_string(),
            "luks: option key-secret: no secret has the id \"x\""
        );
    }
}
