//! Which lines of a log a client has not received yet.
//!
//! Guarantees: no line comes twice; a line comes even if it appears late, up to [`OVERLAP`] after newer lines of other tasks. Each task
//! sends its lines in batches, every 5 seconds. Memory is bounded.

use std::collections::BTreeSet;

use super::super::{Line, Logs};

/// In milliseconds: each read begins this long before the newest line.
const OVERLAP: i64 = 30_000;
/// Ids in memory, of about 100 bytes. With more lines than this in [`OVERLAP`], the overlap is shorter.
const KEPT: usize = 10_000;

#[derive(Debug)]
pub(super) struct Follow {
    /// Milliseconds since the epoch: the client has every older line.
    from: i64,
    /// Time and id of the lines since `from` that the client has.
    seen: BTreeSet<(i64, String)>,
}

impl Follow {
    /// Starts with the newest lines. Returns the lines for the client too.
    pub fn start(lines: Vec<Line>, selection: Logs) -> (Self, Vec<Line>) {
        // Older lines than those that the client asked for are not new.
        let complete = lines.len() < usize::from(selection.lines);
        let oldest = lines.first().map(|line| line.at).filter(|_| !complete);
        let from = oldest.or(selection.after.map(|after| after.saturating_add(1))).unwrap_or(0);
        let mut follow = Self { from, seen: BTreeSet::new() };
        let first = follow.new_lines(lines);
        (follow, first)
    }

    /// Continues after a line of this time, which another stream sent. Lines before it may not have appeared then.
    pub fn resume(at: i64) -> Self {
        Self { from: at.saturating_sub(OVERLAP), seen: BTreeSet::new() }
    }

    /// The time at which the next read begins.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// The lines that the client does not have.
    pub fn new_lines(&mut self, mut lines: Vec<Line>) -> Vec<Line> {
        lines.retain(|line| line.at >= self.from && self.seen.insert((line.at, line.id.clone())));
        if let Some((newest, _)) = self.seen.last() {
            self.forget_before(newest.saturating_sub(OVERLAP));
        }
        if let Some(surplus) = self.seen.len().checked_sub(KEPT + 1)
            && let Some((last, _)) = self.seen.iter().nth(surplus)
        {
            self.forget_before(last.saturating_add(1));
        }
        lines
    }

    fn forget_before(&mut self, from: i64) {
        if from > self.from {
            self.from = from;
            self.seen = self.seen.split_off(&(from, String::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, id: &str) -> Line {
        Line { id: id.to_owned(), at, stream: "task".to_owned(), text: id.to_owned() }
    }

    fn started(lines: Vec<Line>) -> Follow {
        Follow::start(lines, Logs { lines: 100, after: None }).0
    }

    fn ids(lines: Vec<Line>) -> Vec<String> {
        lines.into_iter().map(|line| line.id).collect()
    }

    #[test]
    fn late_lines_of_another_task_are_new() {
        let mut follow = started(vec![line(31_000, "a1")]);
        assert_eq!(follow.from(), 1000);
        assert_eq!(
            ids(follow.new_lines(vec![line(30_900, "b1"), line(31_000, "a1"), line(31_100, "a2")])),
            ["b1", "a2"]
        );
        assert_eq!(ids(follow.new_lines(vec![line(30_900, "b1"), line(31_100, "a2")])), [""; 0]);
    }

    #[test]
    fn lines_of_the_same_millisecond_are_all_new() {
        let mut follow = started(vec![line(1000, "a1")]);
        assert_eq!(ids(follow.new_lines(vec![line(1000, "a1"), line(1000, "a2"), line(1000, "b1")])), ["a2", "b1"]);
    }

    #[test]
    fn equal_texts_with_different_ids_are_different_lines() {
        let mut follow = started(vec![]);
        let twice = vec![line(1000, "1"), Line { text: "1".to_owned(), ..line(1000, "2") }];
        assert_eq!(ids(follow.new_lines(twice)), ["1", "2"]);
    }

    #[test]
    fn lines_before_the_requested_ones_are_not_new() {
        let (mut follow, first) = Follow::start(vec![line(50_000, "a2")], Logs { lines: 1, after: None });
        assert_eq!(ids(first), ["a2"]);
        assert_eq!(ids(follow.new_lines(vec![line(49_999, "a1"), line(50_000, "a2"), line(50_001, "a3")])), ["a3"]);
        let (follow, _) = Follow::start(vec![], Logs { lines: 100, after: Some(7) });
        assert_eq!(follow.from(), 8);
    }

    #[test]
    fn a_resumed_stream_includes_lines_that_came_late() {
        let mut follow = Follow::resume(100_000);
        assert_eq!(follow.from(), 70_000);
        assert_eq!(ids(follow.new_lines(vec![line(70_000, "b1"), line(100_000, "a1")])), ["b1", "a1"]);
    }

    #[test]
    fn ids_in_memory_are_bounded_and_still_distinguish_lines() {
        let mut follow = started(vec![]);
        let many = i64::try_from(3 * KEPT).unwrap();
        let all: Vec<Line> = (0..many).map(|at| line(at, &at.to_string())).collect();
        assert_eq!(follow.new_lines(all.clone()).len(), 3 * KEPT);
        assert_eq!((follow.seen.len(), follow.from()), (KEPT, many - i64::try_from(KEPT).unwrap()));
        assert_eq!(ids(follow.new_lines(all)), [""; 0]);
        // A burst in one millisecond is forgotten as a whole.
        let burst: Vec<Line> = (0..=KEPT).map(|number| line(many, &format!("b{number}"))).collect();
        assert_eq!(follow.new_lines(burst.clone()).len(), KEPT + 1);
        assert_eq!(follow.seen.len(), 0);
        assert_eq!(ids(follow.new_lines(burst)), [""; 0]);
    }
}
