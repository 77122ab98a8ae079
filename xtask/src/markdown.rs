//! What the checks read from a page, or from the doc comment of a Rust item.

use std::collections::BTreeMap;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// A text in Markdown. Lines are counted from 1, in the file that holds the text.
#[derive(Debug, Default)]
pub struct Markdown {
    /// The file, relative to the root.
    pub path: String,
    /// All headings.
    pub headings: Vec<Heading>,
    /// The targets of links and images.
    pub links: Vec<Link>,
    /// Code in backticks and between fences.
    pub code: Vec<Code>,
    /// All rows of all tables, the header rows included.
    pub rows: Vec<Row>,
    first_line: usize,
    text: String,
}

/// A heading.
#[derive(Debug)]
pub struct Heading {
    /// Its line.
    pub line: usize,
    /// 1 for the title of a page.
    pub level: HeadingLevel,
    /// Its text.
    pub text: String,
    /// What a link names after `#`.
    pub anchor: String,
    /// Where the heading begins in the text.
    offset: usize,
}

/// The target of a link or an image.
#[derive(Debug)]
pub struct Link {
    /// Its line.
    pub line: usize,
    /// A URL, or a path and an anchor.
    pub target: String,
}

/// Code in backticks or between fences.
#[derive(Debug)]
pub struct Code {
    /// Its first line.
    pub line: usize,
    /// The code itself.
    pub text: String,
    /// The text after the opening fence, perhaps empty; `None` for code in backticks.
    pub language: Option<String>,
}

/// A row of a table.
#[derive(Debug)]
pub struct Row {
    /// Its line.
    pub line: usize,
    /// The text of each cell.
    pub cells: Vec<String>,
}

/// The part of a page from one heading of level 1 or 2 to the next.
#[derive(Debug)]
pub struct Section<'a> {
    /// Its lines.
    pub lines: Range<usize>,
    /// Its source.
    pub text: &'a str,
}

impl Markdown {
    /// Reads a text that begins at a line of a file.
    pub fn parse(path: &str, first_line: usize, text: &str) -> Self {
        let mut page = Self { path: path.into(), first_line, text: text.into(), ..Self::default() };
        let mut anchors = BTreeMap::new();
        // The heading, cell or block of code that is being read.
        let (mut text_of, mut block) = (String::new(), None::<Code>);
        for (event, place) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = page.line_at(place.start);
            match event {
                Event::Start(Tag::Heading { .. } | Tag::TableCell) => text_of.clear(),
                Event::End(TagEnd::Heading(level)) => {
                    let (text, offset) = (text_of.clone(), place.start);
                    let anchor = anchor(&text, &mut anchors);
                    page.headings.push(Heading { line, level, text, anchor, offset });
                }
                Event::Start(Tag::TableHead | Tag::TableRow) => page.rows.push(Row { line, cells: vec![] }),
                Event::End(TagEnd::TableCell) => {
                    page.rows.last_mut().expect("a cell is in a row").cells.push(text_of.clone());
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link { line, target: dest_url.into_string() });
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some(Code { line, text: String::new(), language: Some(language) });
                }
                Event::End(TagEnd::CodeBlock) => page.code.extend(block.take()),
                Event::Text(text) => block.as_mut().map_or(&mut text_of, |block| &mut block.text).push_str(&text),
                Event::Code(text) => {
                    text_of.push_str(&text);
                    page.code.push(Code { line, text: text.into_string(), language: None });
                }
                _ => {}
            }
        }
        page
    }

    fn line_at(&self, offset: usize) -> usize {
        self.first_line + self.text[..offset].matches('\n').count()
    }

    /// `path:line`.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }

    /// The sections in order. The text before the first heading is one too.
    pub fn sections(&self) -> Vec<Section<'_>> {
        let tops = self.headings.iter().filter(|heading| heading.level <= HeadingLevel::H2);
        let mut bounds: Vec<usize> = [0].into_iter().chain(tops.map(|heading| heading.offset)).collect();
        bounds.push(self.text.len());
        bounds.dedup();
        let section = |bounds: &[usize]| Section {
            lines: self.line_at(bounds[0])..self.line_at(bounds[1]),
            text: &self.text[bounds[0]..bounds[1]],
        };
        bounds.windows(2).map(section).collect()
    }
}

impl Code {
    /// Whether `rustdoc` would take the code of a doc comment, or of a page that it includes, for Rust.
    pub fn is_rust(&self) -> bool {
        let attributes = ["", "rust", "no_run", "ignore", "should_panic", "compile_fail"];
        self.language.as_ref().is_some_and(|language| language.split(',').all(|word| attributes.contains(&word)))
    }
}

/// The anchor that GitHub gives to a heading; a repeated one gets a number.
fn anchor(heading: &str, known: &mut BTreeMap<String, usize>) -> String {
    let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let anchor: String = heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-");
    let count = known.entry(anchor.clone()).or_default();
    *count += 1;
    if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
}

#[cfg(test)]
mod tests {
    use super::Markdown;

    const PAGE: &str = "\
# Title

[a](b.md#c) and `code`

| x | y |
|---|---|
| 1 | `2` |

after the table
## The *same*, twice
```sh
make demo
```
## The same twice
";

    #[test]
    fn a_page_is_read_with_its_lines() {
        let page = Markdown::parse("page.md", 11, PAGE);
        let anchors: Vec<_> = page.headings.iter().map(|heading| (heading.line, &*heading.anchor)).collect();
        assert_eq!(anchors, [(11, "title"), (20, "the-same-twice"), (24, "the-same-twice-1")]);
        let links: Vec<_> = page.links.iter().map(|link| (link.line, &*link.target)).collect();
        assert_eq!(links, [(13, "b.md#c")]);
        let code: Vec<_> = page.code.iter().map(|code| (code.line, &*code.text, code.language.as_deref())).collect();
        assert_eq!(code, [(13, "code", None), (17, "2", None), (21, "make demo\n", Some("sh"))]);
        let rows: Vec<_> = page.rows.iter().map(|row| (row.line, row.cells.join(" "))).collect();
        assert_eq!(rows, [(15, "x y".into()), (17, "1 2".into())]);
        let sections: Vec<_> = page.sections().into_iter().map(|section| (section.lines, section.text.len())).collect();
        assert_eq!(sections.iter().map(|(_, len)| len).sum::<usize>(), PAGE.len());
        assert_eq!(sections.into_iter().map(|(lines, _)| lines).collect::<Vec<_>>(), [11..20, 20..24, 24..25]);
    }
}
