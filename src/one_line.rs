//! Errors as people are told them: one line each, whatever they are made of.

use std::error::Error;

/// The error and its sources, joined by colons. Line breaks, which a file name
/// may have in it, become spaces.
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some errors repeat their source in their own text.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::ConsoleError;
    use crate::vm::error::BuildError;
    use crate::vm::exit::ExitReason;
    use std::io;

    #[test]
    fn causes_follow_on_the_same_line() {
        let source = io::Error::other("two\nlines");
        let line = one_line(&BuildError::EventDescriptor(source));
        assert_eq!(line, "cannot make an event descriptor: two lines");
    }

    #[test]
    fn a_file_name_cannot_break_the_line() {
        let error = BuildError::Console(ConsoleError::File {
            path: "a\nb".into(),
            source: io::Error::other("no"),
        });
        let ExitReason::Usage { message } = error.reason() else {
            panic!("what can be mended is bad usage");
        };
        assert_eq!(message, "cannot write the serial output to 'a b': no");
    }
}
