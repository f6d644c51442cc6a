//! `pinnace check`: every finding of a file, grouped, in the form editors can jump to.
//! `pinnace keys`: every key there is.

use crate::config::{
    Failed, Finding, Loaded,
    keys::{Effect, Reload},
    rows,
};

/// The report of a file, and whether it can be used.
pub(crate) fn report(file: &str, result: &Result<Loaded, Failed>) -> (String, bool) {
    let (errors, warnings) = match result {
        Ok(loaded) => (&[][..], &loaded.warnings),
        Err(failed) => (&failed.errors[..], &failed.warnings),
    };
    let mut text = String::new();
    section(&mut text, "error", errors);
    section(&mut text, "warning", warnings);
    let verdict = match result {
        Ok(loaded) => {
            let users = loaded.config.access.users.0.len();
            format!("{file}: usable, {users} user{}\n", plural(users))
        }
        Err(_) => format!("{file}: not usable\n"),
    };
    text.push_str(&verdict);
    (text, result.is_ok())
}

/// Every key on three lines: name, type and default; when and whether it applies; what it does.
pub(crate) fn keys() -> String {
    let mut text = String::new();
    for row in rows() {
        let choices = (row.choices)();
        let words = if choices.is_empty() {
            String::new()
        } else {
            format!(" ({})", choices.join(", "))
        };
        let (kind, default) = ((row.kind)(), (row.default)());
        let reload = match row.reload {
            Reload::Hot => "applies at once",
            Reload::Restart => "applies after a restart",
        };
        let effect = match row.effect {
            Effect::Now => "",
            Effect::Inert => "; does nothing",
        };
        let name = row.name();
        let doc = row.doc.trim();
        text.push_str(&format!(
            "{name}: {kind} = {default}{words}\n  {reload}{effect}\n  {doc}\n"
        ));
    }
    text
}

/// Logs what was noticed in the file.
pub(crate) fn warn(loaded: &Loaded) {
    for finding in &loaded.warnings {
        tracing::warn!("{finding}");
    }
}

fn section(text: &mut String, title: &str, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let count = findings.len();
    text.push_str(&format!("{count} {title}{}\n", plural(count)));
    for finding in findings {
        text.push_str(&format!("{finding}\n"));
    }
    text.push('\n');
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
