//! The topology, drawn with characters: who is above whom, and how each session stands.

use crate::progress::{bad, dim, good, soon, title};

/// Columns for a node.
const WIDTH: usize = 19;

/// A router with what is below it. Each line of `text` is centred; `session` is the state of the
/// session with the router above.
pub(crate) struct Router {
    pub(crate) text: Vec<String>,
    pub(crate) session: Option<String>,
    pub(crate) below: Vec<Router>,
}

/// How a piece of text looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Title,
    Dim,
    Up,
    Soon,
    Down,
}

#[derive(Default)]
struct Canvas {
    rows: Vec<Vec<(char, Look)>>,
}

impl Canvas {
    fn put(&mut self, row: usize, column: usize, text: &str, look: Look) {
        if self.rows.len() <= row {
            self.rows.resize_with(row + 1, Vec::new);
        }
        let line = &mut self.rows[row];
        for (index, letter) in text.chars().enumerate() {
            let column = column + index;
            if line.len() <= column {
                line.resize(column + 1, (' ', Look::Plain));
            }
            line[column] = (letter, look);
        }
    }

    fn centre(&mut self, row: usize, column: usize, text: &str, look: Look) {
        let half = text.chars().count() / 2;
        self.put(row, column.saturating_sub(half), text, look);
    }

    /// Lines with colours, each piece of one look painted once.
    fn lines(&self) -> Vec<String> {
        self.rows
            .iter()
            .map(|row| {
                row.chunk_by(|(_, a), (_, b)| a == b)
                    .map(|piece| {
                        let text: String = piece.iter().map(|(letter, _)| letter).collect();
                        match piece[0].1 {
                            Look::Plain => text,
                            Look::Title => title(&text),
                            Look::Dim => dim(&text),
                            Look::Up => good(&text),
                            Look::Soon => soon(&text),
                            Look::Down => bad(&text),
                        }
                    })
                    .collect()
            })
            .collect()
    }
}

/// The lines of the picture.
pub(crate) fn draw(top: &Router) -> Vec<String> {
    let mut canvas = Canvas::default();
    place(&mut canvas, top, 0, 0);
    canvas.lines()
}

/// Draws a router and what is below it from this row and column on; gives the column of its middle
/// and its width.
fn place(canvas: &mut Canvas, router: &Router, row: usize, left: usize) -> (usize, usize) {
    let text_row = row + if router.session.is_some() { 1 } else { 0 };
    let below_row = text_row + router.text.len();
    let mut width = 0;
    let mut middles = Vec::new();
    for child in &router.below {
        let (middle, taken) = place(canvas, child, below_row + 2, left + width);
        middles.push(middle);
        width += taken;
    }
    let width = width.max(WIDTH);
    let middle = match (middles.first(), middles.last()) {
        (Some(first), Some(last)) => (first + last) / 2,
        _ => left + WIDTH / 2,
    };
    if let Some(session) = &router.session {
        let look = match session.as_str() {
            "Established" => Look::Up,
            "OpenSent" | "OpenConfirm" => Look::Soon,
            _ => Look::Down,
        };
        canvas.centre(row, middle, &format!("● {session}"), look);
    }
    for (index, line) in router.text.iter().enumerate() {
        let look = if index == 0 { Look::Title } else { Look::Dim };
        canvas.centre(text_row + index, middle, line, look);
    }
    join(canvas, below_row, middle, &middles);
    (middle, width)
}

/// The lines from a router's middle to the middles of those below it.
fn join(canvas: &mut Canvas, row: usize, middle: usize, below: &[usize]) {
    let (Some(first), Some(last)) = (below.first(), below.last()) else {
        return;
    };
    canvas.put(row, middle, "│", Look::Plain);
    for column in *first..=*last {
        let down = below.contains(&column);
        let letter = match (column == middle, down) {
            _ if first == last => "│",
            (true, true) => "┼",
            (true, false) => "┴",
            (false, true) if column == *first => "┌",
            (false, true) if column == *last => "┐",
            (false, true) => "┬",
            (false, false) => "─",
        };
        canvas.put(row + 1, column, letter, Look::Plain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(name: &str, session: Option<&str>, below: Vec<Router>) -> Router {
        Router {
            text: vec![name.to_owned()],
            session: session.map(str::to_owned),
            below,
        }
    }

    #[test]
    fn routers_stand_above_the_middle_of_what_is_below_them() {
        let top = router(
            "spine",
            None,
            vec![
                router("a", Some("Idle"), Vec::new()),
                router("b", Some("Established"), Vec::new()),
            ],
        );
        let expected = [
            "                spine",
            "                  │",
            "         ┌────────┴─────────┐",
            "      ● Idle          ● Established",
            "         a                  b",
        ];
        assert_eq!(draw(&top), expected);
    }
}
