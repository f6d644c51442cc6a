//! Where everything stands in a TOML text: tables with their lines, entries with their values.
//!
//! Nothing is decoded but keys. Not here: what is done with it (`plan.rs`).

use std::{borrow::Cow, collections::HashMap, ops::Range};

use toml_parser::{
    Source,
    parser::{Event, EventKind, RecursionGuard, parse_document},
};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step<'t> {
    /// A key, unquoted.
    Key(Cow<'t, str>),
    /// An element of an array of tables, from 0.
    Index(usize),
}

/// A parsed text.
#[derive(Debug)]
pub(super) struct Layout<'t> {
    /// The text.
    pub(super) text: &'t str,
    /// In file order; the first is what comes before any header.
    pub(super) blocks: Vec<Block<'t>>,
}

/// A header and the entries below it.
#[derive(Debug)]
pub(super) struct Block<'t> {
    /// Of the table; empty for the root.
    pub(super) path: Vec<Step<'t>>,
    /// The header's line with its end; empty for the root.
    pub(super) line: Range<usize>,
    /// In file order.
    pub(super) entries: Vec<Entry<'t>>,
}

/// `key = value` on lines of its own.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    /// From the start of its first line to behind the end of its last.
    pub(super) lines: Range<usize>,
    /// What it says.
    pub(super) pair: Pair<'t>,
}

/// A key, perhaps dotted, with its value.
#[derive(Debug)]
pub(super) struct Pair<'t> {
    /// Below the table it stands in; at least one.
    pub(super) keys: Vec<Cow<'t, str>>,
    /// Where the key starts.
    pub(super) start: usize,
    /// The value.
    pub(super) value: Value<'t>,
    /// The comma behind it, inside an inline table.
    pub(super) comma: Option<usize>,
}

/// A value.
#[derive(Debug)]
pub(super) enum Value<'t> {
    /// Scalars and arrays.
    Plain(Range<usize>),
    /// An inline table: where it stands, and its entries.
    Inline(Range<usize>, Vec<Pair<'t>>),
}

impl Value<'_> {
    /// Where it stands.
    pub(super) fn span(&self) -> Range<usize> {
        match self {
            Self::Plain(span) | Self::Inline(span, _) => span.clone(),
        }
    }
}

impl<'t> Layout<'t> {
    /// Finds everything in `text`; `None` when it is not TOML.
    ///
    /// Tables that are defined twice and other faults of meaning are not noticed.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let source = Source::new(text);
        let tokens = source.lex().into_vec();
        let mut events: Vec<Event> = Vec::with_capacity(tokens.len());
        let mut wrong = None;
        let mut guard = RecursionGuard::new(&mut events, DEPTH_MAX);
        parse_document(&tokens, &mut guard, &mut wrong);
        if wrong.is_some() {
            return None;
        }
        let walk = Walk {
            source,
            events: &events,
            at: 0,
            arrays: HashMap::new(),
        };
        walk.document()
    }

    /// A part of the text; the spans of a layout always fit.
    pub(super) fn slice(&self, span: Range<usize>) -> &'t str {
        self.text.get(span).unwrap_or("")
    }
}

/// Goes over the parser's events.
struct Walk<'t, 'e> {
    source: Source<'t>,
    events: &'e [Event],
    at: usize,
    /// Elements seen so far of each array of tables.
    arrays: HashMap<Vec<Step<'t>>, usize>,
}

impl<'t> Walk<'t, '_> {
    fn document(mut self) -> Option<Layout<'t>> {
        let root = Block {
            path: Vec::new(),
            line: 0..0,
            entries: Vec::new(),
        };
        let mut blocks = vec![root];
        while let Some(event) = self.next() {
            match event.kind() {
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                    let block = self.header(event)?;
                    blocks.push(block);
                }
                EventKind::SimpleKey => {
                    let start = self.line_start(event.span().start());
                    let pair = self.pair(event)?;
                    let end = self.line_end(pair.value.span().end);
                    let entry = Entry {
                        lines: start..end,
                        pair,
                    };
                    blocks.last_mut()?.entries.push(entry);
                }
                EventKind::Whitespace | EventKind::Comment | EventKind::Newline => {}
                _ => return None,
            }
        }
        Some(Layout {
            text: self.source.input(),
            blocks,
        })
    }

    fn next(&mut self) -> Option<Event> {
        let event = self.events.get(self.at).copied()?;
        self.at += 1;
        Some(event)
    }

    /// The next event that says something.
    fn next_token(&mut self) -> Option<Event> {
        loop {
            let event = self.next()?;
            let blank = matches!(
                event.kind(),
                EventKind::Whitespace | EventKind::Comment | EventKind::Newline
            );
            if !blank {
                return Some(event);
            }
        }
    }

    fn header(&mut self, open: Event) -> Option<Block<'t>> {
        let mut keys = Vec::new();
        let close = loop {
            let event = self.next_token()?;
            match event.kind() {
                EventKind::SimpleKey => keys.push(self.key(event)?),
                EventKind::KeySep => {}
                EventKind::StdTableClose | EventKind::ArrayTableClose => break event,
                _ => return None,
            }
        };
        let mut path = Vec::with_capacity(keys.len() + 1);
        let last = keys.len().checked_sub(1)?;
        for (index, key) in keys.into_iter().enumerate() {
            path.push(Step::Key(key));
            if index == last && open.kind() == EventKind::ArrayTableOpen {
                let count = self.arrays.entry(path.clone()).or_insert(0);
                path.push(Step::Index(*count));
                *count += 1;
            } else if let Some(count) = self.arrays.get(&path) {
                path.push(Step::Index(count.saturating_sub(1)));
            }
        }
        let line = self.line_start(open.span().start())..self.line_end(close.span().end());
        Some(Block {
            path,
            line,
            entries: Vec::new(),
        })
    }

    /// `first` is the first simple key.
    fn pair(&mut self, first: Event) -> Option<Pair<'t>> {
        let mut keys = vec![self.key(first)?];
        loop {
            let event = self.next_token()?;
            match event.kind() {
                EventKind::SimpleKey => keys.push(self.key(event)?),
                EventKind::KeySep => {}
                EventKind::KeyValSep => break,
                _ => return None,
            }
        }
        Some(Pair {
            keys,
            start: first.span().start(),
            value: self.value()?,
            comma: None,
        })
    }

    fn value(&mut self) -> Option<Value<'t>> {
        let first = self.next_token()?;
        let start = first.span().start();
        match first.kind() {
            EventKind::Scalar => Some(Value::Plain(start..first.span().end())),
            EventKind::ArrayOpen => {
                let mut depth = 1_usize;
                loop {
                    let event = self.next()?;
                    match event.kind() {
                        EventKind::ArrayOpen => depth += 1,
                        EventKind::ArrayClose => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        return Some(Value::Plain(start..event.span().end()));
                    }
                }
            }
            EventKind::InlineTableOpen => {
                let mut pairs: Vec<Pair<'t>> = Vec::new();
                loop {
                    let event = self.next_token()?;
                    match event.kind() {
                        EventKind::SimpleKey => {
                            let pair = self.pair(event)?;
                            pairs.push(pair);
                        }
                        EventKind::ValueSep => {
                            pairs.last_mut()?.comma = Some(event.span().start());
                        }
                        EventKind::InlineTableClose => {
                            return Some(Value::Inline(start..event.span().end(), pairs));
                        }
                        _ => return None,
                    }
                }
            }
            _ => None,
        }
    }

    fn key(&self, event: Event) -> Option<Cow<'t, str>> {
        let mut key = Cow::Borrowed("");
        let mut wrong = None;
        let text = self.source.get(event)?;
        text.decode_key(&mut key, &mut wrong);
        wrong.is_none().then_some(key)
    }

    fn line_start(&self, at: usize) -> usize {
        let before = self.source.input().get(..at).unwrap_or("");
        before.rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn line_end(&self, at: usize) -> usize {
        let text = self.source.input();
        let rest = text.get(at..).unwrap_or("");
        rest.find('\n')
            .map_or(text.len(), |newline| at + newline + 1)
    }
}

/// As deep as the parser of values goes.
const DEPTH_MAX: u32 = 80;
