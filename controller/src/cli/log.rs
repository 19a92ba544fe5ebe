//! The log: text on a terminal, JSON otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::prelude::*;

use super::terminal::escape;

/// Logs to standard error, at the level in `RUST_LOG` or `info`.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() {
        builder.fmt_fields(fields()).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// Escapes control characters: messages contain text of repositories and servers.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    debug_fn(|writer, field, value| {
        let value = escape(&format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use codeloc_core::lock::lock;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_for_a_terminal_escapes_control_characters() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
        let subscriber = subscriber.with_writer(move || writer.clone()).fmt_fields(fields()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let hostile = "\u{1b}]0;x\u{7}\u{202e}\u{2066}\u{9b}\r";
            tracing::info!(location = "orders", error = %hostile, "see {hostile}");
        });
        let text = String::from_utf8(lock(&buffer.0).clone()).unwrap();
        let escaped = r"\u{1b}]0;x\u{7}\u{202e}\u{2066}\u{9b}\r";
        assert_eq!(text, format!(" INFO see {escaped} location=\"orders\" error={escaped}\n"));
    }
}
