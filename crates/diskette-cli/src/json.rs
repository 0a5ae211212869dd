//! JSON as qemu-img prints it.

use std::io::{self, Write};

use diskette::core::{Details, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use serde_json::{Map, Value as Json};

/// Prints a value with four blanks a level, and ends the line.
pub(crate) fn print(out: &mut dyn Write, value: &Json) -> io::Result<()> {
    let mut serializer = Serializer::with_formatter(&mut *out, Indented::default());
    value.serialize(&mut serializer)?;
    writeln!(out)
}

/// The named values of a format.
pub(crate) fn details(details: &Details) -> Json {
    details
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn json(value: &Value) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Number(value) => (*value).into(),
        Value::Text(value) => value.as_str().into(),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Map(values) => details(values),
    }
}

/// As serde_json indents, but that a list or a map without anything in it takes two lines too.
struct Indented {
    usual: PrettyFormatter<'static>,
    depth: usize,
    empty: bool,
}

const INDENT: &str = "    ";

impl Default for Indented {
    fn default() -> Self {
        Self {
            usual: PrettyFormatter::with_indent(INDENT.as_bytes()),
            depth: 0,
            empty: false,
        }
    }
}

impl Indented {
    fn enter(&mut self) {
        self.depth += 1;
        self.empty = true;
    }

    fn leave<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if std::mem::take(&mut self.empty) {
            write!(writer, "\n{}", INDENT.repeat(self.depth))?;
        }
        Ok(())
    }
}

impl Formatter for Indented {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter();
        self.usual.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.leave(writer)?;
        self.usual.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.empty = false;
        self.usual.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.usual.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter();
        self.usual.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.leave(writer)?;
        self.usual.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.empty = false;
        self.usual.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.usual.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.usual.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_takes_two_lines_as_in_qemu_img() {
        let mut out = Vec::new();
        let value = serde_json::json!({"children": [], "data": {}, "a": [1, {"b": []}]});
        print(&mut out, &value).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = r#"{
    "children": [
    ],
    "data": {
    },
    "a": [
        1,
        {
            "b": [
            ]
        }
    ]
}
"#;
        assert_eq!(text, expected);
    }
}
