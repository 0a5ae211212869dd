//! `--object secret,id=...`: passphrases, as qemu-img takes them.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diskette::core::{Error, Result, Secrets};
use zeroize::Zeroizing;

use crate::args::split_at_commas;

/// The secrets that the arguments of `--object` describe.
pub(crate) fn parse(objects: &[String]) -> Result<Secrets> {
    let mut secrets = Secrets::default();
    for object in objects {
        let object = Object::parse(object)?;
        let bytes = object.bytes()?;
        secrets.set(object.id, bytes);
    }
    Ok(secrets)
}

/// One secret, as it is described.
struct Object {
    id: String,
    source: Source,
    is_base64: bool,
}

enum Source {
    Data(Zeroizing<String>),
    File(String),
}

impl Object {
    fn parse(text: &str) -> Result<Self> {
        let (mut id, mut source, mut is_base64) = (None, None, false);
        for (index, pair) in split_at_commas(text).into_iter().enumerate() {
            match pair.split_once('=') {
                None | Some(("qom-type", "secret")) if index == 0 && pair.ends_with("secret") => {}
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => {
                    source = Some(Source::Data(Zeroizing::new(value.to_owned())));
                }
                Some(("file", value)) => source = Some(Source::File(value.to_owned())),
                Some(("format", "raw")) => is_base64 = false,
                Some(("format", "base64")) => is_base64 = true,
                Some(("format", _)) => return Err(invalid("format", "neither raw nor base64")),
                Some((name @ ("keyid" | "iv"), _)) => {
                    return Err(invalid(
                        name,
                        "secrets that are themselves encrypted are not supported",
                    ));
                }
                _ if index == 0 => return Err(invalid("qom-type", "not secret")),
                Some((name, _)) => return Err(invalid(name, "no such option")),
                None => return Err(invalid("secret", "an option without a value")),
            }
        }
        Ok(Self {
            id: id.ok_or_else(|| invalid("id", "not given"))?,
            source: source.ok_or_else(|| invalid("data", "neither it nor file is given"))?,
            is_base64,
        })
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        let bytes = match &self.source {
            Source::Data(text) => Zeroizing::new(text.as_bytes().to_vec()),
            Source::File(path) => read(path)?,
        };
        if !self.is_base64 {
            return Ok(bytes);
        }
        let decoded = STANDARD.decode(bytes.trim_ascii());
        let decoded = decoded.map_err(|_| invalid("format", "what is given is no base64"))?;
        Ok(Zeroizing::new(decoded))
    }
}

fn read(path: &str) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = fs::read(path).map_err(|source| Error::File {
        op: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(Zeroizing::new(bytes))
}

/// Says nothing of the value, which may be the secret.
fn invalid(name: &str, why: &'static str) -> Error {
    Error::invalid_option("--object", name, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(object: &str) -> Result<Vec<u8>> {
        let secrets = parse(&[object.to_owned()])?;
        Ok(secrets.get("s")?.to_vec())
    }

    #[test]
    fn a_secret_is_given_as_it_is_or_in_base64_or_by_a_file() {
        assert_eq!(secret("secret,id=s,data=a,,b").unwrap(), b"a,b");
        assert_eq!(
            secret("secret,id=s,data=YSxi,format=base64").unwrap(),
            b"a,b"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"YSxi\n").unwrap();
        let path = file.path().display();
        assert_eq!(
            secret(&format!("secret,id=s,file={path}")).unwrap(),
            b"YSxi\n"
        );
        assert_eq!(
            secret(&format!("qom-type=secret,id=s,format=base64,file={path}")).unwrap(),
            b"a,b"
        );
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        for object in [
            "secret,data=hunter2",
            "secret,id=s",
            "secret,id=s,data=hunter2,format=base64",
            "secret,id=s,data=hunter2,format=hunter2",
            "secret,id=s,data=hunter2,keyid=hunter2",
            "tls-creds-psk,id=s,data=hunter2",
            "secret,id=s,data=hunter2,hunter2",
            "secret,id=s,file=/nonexistent",
        ] {
            let text = secret(object).unwrap_err().to_string();
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
