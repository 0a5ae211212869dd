//! What is said about an image that could be opened.

/// Remarks that gather while an image is opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remarks {
    /// What is odd, and did no harm.
    pub warnings: Vec<String>,
    /// What would have been an error, had salvage not been asked for.
    pub damage: Vec<String>,
}

impl Remarks {
    /// Something is odd.
    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        keep(&mut self.warnings, text);
    }

    /// Something is lost.
    pub(crate) fn damaged(&mut self, text: impl ToString) {
        keep(&mut self.damage, text.to_string());
    }
}

/// An image of many parts may be odd in each.
fn keep(list: &mut Vec<String>, text: impl Into<String>) {
    const MOST: usize = 100;
    if list.len() < MOST {
        list.push(text.into());
    }
}
