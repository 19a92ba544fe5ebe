//! Whether something answers, judged by the clock: it is asked at short intervals, and a question that hangs counts like one
//! that fails.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Pulse {
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// When the first question since the last good answer was asked.
    asked: Option<Instant>,
    /// Why the last one failed; nothing while the first one is still open.
    why: Option<String>,
}

/// No good answer since a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    pub since: Instant,
    /// What the last question ended with; nothing where none has ended.
    pub why: Option<String>,
}

impl Pulse {
    /// To be called before each question.
    pub fn ask(&self) {
        self.state.send_if_modified(|state| {
            let first = state.asked.is_none();
            state.asked.get_or_insert_with(Instant::now);
            first
        });
    }

    pub fn heard(&self) {
        self.state.send_if_modified(|state| std::mem::take(state).asked.is_some());
    }

    pub fn failed(&self, why: String) {
        self.state.send_if_modified(|state| {
            state.asked.get_or_insert_with(Instant::now);
            state.why = Some(why);
            true
        });
    }

    /// Nothing while a question is younger than `patience`.
    pub fn silence(&self, patience: Duration) -> Option<Silence> {
        let State { asked, why } = self.state.borrow().clone();
        let since = asked.filter(|asked| asked.elapsed() >= patience)?;
        Some(Silence { since, why })
    }

    /// Until a question is as old as `patience`.
    pub async fn until_silent(&self, patience: Duration) -> Silence {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(silence) = self.silence(patience) {
                return silence;
            }
            let asked = changes.borrow_and_update().asked;
            let due = async {
                match asked {
                    Some(asked) => tokio::time::sleep_until(asked + patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                // Never an error: the sender is in this very value.
                _ = changes.changed() => {}
            }
        }
    }

    /// Until nothing is unanswered.
    pub async fn until_heard(&self) {
        // Never an error: the sender is in this very value.
        let _ = self.state.subscribe().wait_for(|state| state.asked.is_none()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(4);

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_is_a_silence() {
        let pulse = Pulse::default();
        let asked = Instant::now();
        pulse.ask();
        assert_eq!(pulse.silence(PATIENCE), None);
        assert_eq!(pulse.until_silent(PATIENCE).await, Silence { since: asked, why: None });
        pulse.heard();
        assert_eq!(pulse.silence(PATIENCE), None);
        pulse.until_heard().await;
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_fail_are_one_silence_from_the_first_on() {
        let pulse = Pulse::default();
        let asked = Instant::now();
        for why in ["refused", "reset"] {
            pulse.ask();
            pulse.failed(why.to_owned());
            pass(3).await;
        }
        assert_eq!(pulse.silence(PATIENCE), Some(Silence { since: asked, why: Some("reset".to_owned()) }));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_silent_while_nothing_is_asked() {
        let pulse = Pulse::default();
        pulse.ask();
        pulse.heard();
        pass(3600).await;
        assert_eq!(pulse.silence(PATIENCE), None);
    }
}
