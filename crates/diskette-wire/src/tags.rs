//! Tags of an image, as forms and headers have them.

use serde_json::Value;

/// Words by commas.
#[must_use]
pub fn by_commas(text: &str) -> Vec<String> {
    let tags = text.split(',').map(str::trim);
    tags.filter(|tag| !tag.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A list in JSON, of which what is no text is left out, or words by commas.
#[must_use]
pub fn listed(text: &str) -> Vec<String> {
    match serde_json::from_str(text) {
        Ok(Value::Array(tags)) => tags
            .iter()
            .filter_map(|tag| Some(tag.as_str()?.to_owned()))
            .collect(),
        _ => by_commas(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_words_by_commas_or_a_list_in_json() {
        assert_eq!(by_commas(" a, ,b "), ["a", "b"]);
        assert_eq!(listed(" a, ,b "), ["a", "b"]);
        assert_eq!(listed(r#"["a, b", 7]"#), ["a, b"]);
        assert_eq!(listed("[a"), ["[a"]);
    }
}
