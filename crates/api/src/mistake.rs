//! What is told to the user about a mistake, or about something that is probably one.

use std::fmt;

/// One mistake: where it is, and what to do.
///
/// Displays as one line that begins with `file:line`, as compilers do, so that editors jump there:
/// `peers.yaml:14: Peer `tor`, spec.port: found 70000; allowed: a whole number from 1 to 65535`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file; empty when the mistake is in no one file (such as a missing Fabric).
    pub file: String,
    /// Line in the file, from 1; 0 when there is none.
    pub line: u64,
    /// Which document of the file, from 1; 0 when it is the file as a whole.
    pub document: usize,
    /// The resource's kind and name as far as they are known: ``Peer `tor` ``, or empty.
    pub resource: String,
    /// The field's path, such as `spec.rules[2].match.prefixes[0]`; empty for the whole resource.
    pub field: String,
    /// What was found, what is allowed, what to do.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: Vec<String> = Vec::new();
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, 0) => before.push(file.to_owned()),
            (file, line) => before.push(format!("{file}:{line}")),
        }
        let document = match (self.document, self.resource.is_empty()) {
            (0, _) => String::new(),
            (document, _) => format!("document {document}"),
        };
        let within = [document, self.resource.clone(), self.field.clone()];
        let within: Vec<String> = within.into_iter().filter(|part| !part.is_empty()).collect();
        if !within.is_empty() {
            before.push(within.join(", "));
        }
        before.push(self.message.clone());
        f.write_str(&before.join(": "))
    }
}

impl std::error::Error for Mistake {}
