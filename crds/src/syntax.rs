//! Parses a YAML text into a tree in which each node has its bytes in the text, for edits that keep the rest of the text.
//!
//! Assumes: the text is one valid document. A text with other surprises, such as maps as keys, has no tree.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle, options};

pub(crate) struct Tree {
    pub root: Node,
    pub comments: Vec<Range<usize>>,
}

pub(crate) struct Node {
    /// The bytes of a scalar or a flow collection, and of all nodes inside a block collection. Empty for an empty value.
    pub span: Range<usize>,
    pub content: Content,
}

pub(crate) enum Content {
    /// A scalar or an alias on the line of its key.
    Inline,
    /// A literal or folded scalar, whose header is not in the span.
    Block,
    Map {
        flow: bool,
        entries: Vec<Entry>,
    },
    List {
        flow: bool,
        items: Vec<Node>,
    },
}

pub(crate) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    /// The end of the colon after the key.
    pub lead: usize,
    pub value: Node,
}

impl Entry {
    pub fn end(&self) -> usize {
        self.value.span.end.max(self.lead)
    }
}

/// The tree of a text; `None` if it has no useful one.
pub(crate) fn parse(text: &str) -> Option<Tree> {
    // Without this limit, a long comment between two nodes would be an error.
    let options = options! { max_buffered_comment_events: usize::MAX };
    let mut reader = Reader { text, events: Parser::new_from_str_with_options(text, options), comments: Vec::new() };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (event, span) => {
                let root = reader.node(&event, span)?;
                // Comments after the last node.
                while reader.next().is_some() {}
                return Some(Tree { root, comments: reader.comments });
            }
        }
    }
}

struct Reader<'a, I> {
    text: &'a str,
    events: I,
    comments: Vec<Range<usize>>,
}

impl<'a, E, I: Iterator<Item = Result<(Event<'a>, Span), E>>> Reader<'a, I> {
    /// The next event that is not a comment.
    fn next(&mut self) -> Option<(Event<'a>, Range<usize>)> {
        loop {
            let (event, span) = self.events.next()?.ok()?;
            let span = span.byte_range()?;
            match event {
                Event::Comment(..) => self.comments.push(span),
                event => return Some((event, span)),
            }
        }
    }

    fn node(&mut self, event: &Event<'a>, start: Range<usize>) -> Option<Node> {
        match event {
            Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => {
                Some(Node { span: self.trimmed(start), content: Content::Block })
            }
            Event::Scalar(..) | Event::Alias(_) => Some(Node { span: self.trimmed(start), content: Content::Inline }),
            Event::MappingStart(style, ..) => {
                let mut entries = Vec::new();
                let end = loop {
                    match self.next()? {
                        (Event::MappingEnd, end) => break end,
                        (Event::Scalar(key, ..), key_span) => {
                            let (event, start) = self.next()?;
                            let mut value = self.node(&event, start)?;
                            let lead = self.after_colon(&key_span);
                            if value.span.is_empty() {
                                // The parser finds an empty value after the comments that follow its key.
                                value.span = lead..lead;
                            }
                            entries.push(Entry { key: key.into_owned(), key_span, lead, value });
                        }
                        _ => return None,
                    }
                };
                let flow = *style == StructureStyle::Flow;
                let last = entries.last().map(Entry::end);
                let span = if flow { start.start..end.end } else { start.start..last? };
                Some(Node { span, content: Content::Map { flow, entries } })
            }
            Event::SequenceStart(style, ..) => {
                let mut items = Vec::new();
                let end = loop {
                    match self.next()? {
                        (Event::SequenceEnd, end) => break end,
                        (event, start) => items.push(self.node(&event, start)?),
                    }
                };
                let flow = *style == StructureStyle::Flow;
                let span = if flow { start.start..end.end } else { start.start..items.last()?.span.end };
                Some(Node { span, content: Content::List { flow, items } })
            }
            _ => None,
        }
    }

    /// The end of the colon after a key, or of the key in `{key}`.
    fn after_colon(&self, key: &Range<usize>) -> usize {
        let rest = &self.text[key.end..];
        let colon = rest.find(':').filter(|colon| rest[..*colon].trim().is_empty());
        colon.map_or(key.end, |colon| key.end + colon + 1)
    }

    /// Without white space at the end: a literal scalar ends with its line.
    fn trimmed(&self, span: Range<usize>) -> Range<usize> {
        let length = self.text[span.clone()].trim_end().len();
        span.start..span.start + length
    }
}
