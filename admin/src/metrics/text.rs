//! The Prometheus text format, version 0.0.4: families, samples, escapes.

use std::fmt::{self, Write as _};

/// Value of `Content-Type`.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grows, or starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Text under construction. All samples of a family follow its head.
pub(super) struct Text {
    out: String,
    prefix: String,
    family: String,
}

impl Text {
    /// Every name will begin with `prefix`.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            out: String::with_capacity(32 << 10),
            prefix: prefix.to_owned(),
            family: String::new(),
        }
    }

    /// Begins a family; each only once.
    pub(super) fn family(&mut self, name: impl fmt::Display, kind: Kind, help: &str) {
        self.family.clear();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to memory cannot fail.
        let _ = write!(self.family, "{}{name}", self.prefix);
        debug_assert!(is_name(&self.family), "{}", self.family);
        let help = help.trim().replace('\\', "\\\\").replace('\n', "\\n");
        let family = &self.family;
        let _ = writeln!(self.out, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    /// A sample of the family begun last.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.out.push_str(&self.family);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(value, &mut self.out);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A family of one sample without labels.
    pub(super) fn single(
        &mut self,
        name: impl fmt::Display,
        kind: Kind,
        help: &str,
        value: impl fmt::Display,
    ) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// Whether a text can begin or be the name of a metric.
pub(super) fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let mut bytes = text.bytes();
    bytes.next().is_some_and(letter) && bytes.all(|byte| letter(byte) || byte.is_ascii_digit())
}

fn escape(value: &str, out: &mut String) {
    for letter in value.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_samples_are_written_as_the_format_wants_them() {
        let mut text = Text::new("p_");
        text.single("a_total", Kind::Counter, " What\\ it\ncounts. ", 7);
        text.family("b", Kind::Gauge, "x");
        text.sample(&[("user", "a\"b\\c\nd"), ("dc", "-2")], 0.5);
        let expected = concat!(
            "# HELP p_a_total What\\\\ it\\ncounts.\n",
            "# TYPE p_a_total counter\n",
            "p_a_total 7\n",
            "# HELP p_b x\n",
            "# TYPE p_b gauge\n",
            "p_b{user=\"a\\\"b\\\\c\\nd\",dc=\"-2\"} 0.5\n",
        );
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn names_are_letters_digits_and_underscores() {
        for (text, fits) in [
            ("pinnace_", true),
            ("_9", true),
            ("", false),
            ("9a", false),
            ("a-b", false),
            ("é", false),
        ] {
            assert_eq!(is_name(text), fits, "{text}");
        }
    }
}
