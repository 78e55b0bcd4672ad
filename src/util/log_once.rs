//! Lines that are logged only when they change.

/// The line that was logged last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogOnce(String);

impl LogOnce {
    /// Whether this line differs from the last one; it becomes the last one.
    pub fn is_news(&mut self, line: &str) -> bool {
        let is_news = self.0 != line;
        if is_news {
            line.clone_into(&mut self.0);
        }
        is_news
    }

    /// The same, ignoring numbers that merely increase.
    pub fn is_news_but_for_numbers(&mut self, line: &str) -> bool {
        self.is_news(&without_numbers(line))
    }

    /// The problem is over: the same line will be news again.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

/// A line without the numbers that merely increase.
pub fn without_numbers(line: &str) -> String {
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_news_once_until_it_changes_or_is_forgotten() {
        let mut said = LogOnce::default();
        assert!(said.is_news("a 1") && !said.is_news("a 1") && said.is_news("a 2"));
        said.forget();
        assert!(said.is_news("a 2"));
        assert!(said.is_news_but_for_numbers("waited 1 s") && !said.is_news_but_for_numbers("waited 2 s"));
    }
}
