//! `json:` names: an image described by JSON in place of its file's name.
//!
//! ```text
//!  json:{"driver": "qcow2", "file": {"driver": "file", "filename": "disk.qcow2"}}
//!  json:{"driver": "qcow2", "file.filename": "disk.qcow2"}
//! ```
//!
//! They are taken of the user alone. One that stands within an image is a name like any other, and refused.

use diskette::core::{Error, Result};
use serde_json::{Map, Value as Json};

/// What errors call such a name.
pub(crate) const SOURCE: &str = "json:";

/// What a `json:` name says, as dotted options; `None` for any other name.
pub(crate) fn pairs(name: &str) -> Option<Result<Vec<(String, String)>>> {
    let text = name.strip_prefix(SOURCE)?;
    Some(parse(text))
}

fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let whole = |why: String| Error::invalid_option(SOURCE, "name", why);
    let parsed = serde_json::from_str(&double_quoted(text));
    let object: Map<String, Json> = parsed.map_err(|error| whole(error.to_string()))?;
    let mut pairs = Vec::new();
    flatten("", object, &mut pairs)?;
    Ok(pairs)
}

/// What lies within an object gets its name in front. How deep they lie within each other, the parser has bounded.
fn flatten(
    prefix: &str,
    object: Map<String, Json>,
    pairs: &mut Vec<(String, String)>,
) -> Result<()> {
    for (name, value) in object {
        let name = format!("{prefix}{name}");
        let text = match value {
            Json::Object(inner) => {
                flatten(&format!("{name}."), inner, pairs)?;
                continue;
            }
            Json::String(text) => text,
            Json::Number(number) => number.to_string(),
            Json::Bool(true) => "on".to_owned(),
            Json::Bool(false) => "off".to_owned(),
            Json::Null | Json::Array(_) => {
                return Err(Error::invalid_option(SOURCE, name, "not supported"));
            }
        };
        pairs.push((name, text));
    }
    Ok(())
}

/// QEMU's JSON has strings in single quotes, too.
fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (Some('\''), '"') => out.push_str("\\\""),
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                escaped => out.extend(std::iter::once('\\').chain(escaped)),
            },
            (Some(open), _) if char == open => {
                quote = None;
                out.push('"');
            }
            (None, '"' | '\'') => {
                quote = Some(char);
                out.push('"');
            }
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str) -> Vec<(String, String)> {
        pairs(name).unwrap().unwrap()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn nested_and_dotted_names_say_the_same() {
        let expected = [
            pair("driver", "qcow2"),
            pair("file.driver", "file"),
            pair("file.filename", "a 'b' \"c\".qcow2"),
            pair("force-share", "on"),
        ];
        for name in [
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"a 'b' \"c\".qcow2"},"force-share":true}"#,
            r#"json:{"driver":"qcow2","file.driver":"file","file.filename":"a 'b' \"c\".qcow2","force-share":true}"#,
            r#"json: {'driver':'qcow2','file':{'driver':'file','filename':'a \'b\' "c".qcow2'},'force-share':true}"#,
        ] {
            assert_eq!(said(name), expected, "{name}");
        }
        assert!(pairs("disk.qcow2").is_none());
    }

    #[test]
    fn what_is_no_description_is_told() {
        for (name, why) in [
            ("json:{", "option name: EOF"),
            ("json:[1]", "option name: invalid type"),
            ("json:{'a':[1]}", "option a: not supported"),
            ("json:{'backing':null}", "option backing: not supported"),
        ] {
            let error = pairs(name).unwrap().unwrap_err().to_string();
            assert!(error.starts_with(&format!("json:: {why}")), "{error}");
        }
        let deep = format!("json:{}1{}", "{\"a\":".repeat(4000), "}".repeat(4000));
        assert!(pairs(&deep).unwrap().is_err());
    }
}
