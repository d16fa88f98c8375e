//! What happened, line by line: its end for people, a hash of all of it for comparing two runs.

use std::collections::VecDeque;

/// Lines that a failure shows.
const SHOWN: usize = 60;

#[derive(Default)]
pub struct Trace {
    last: VecDeque<String>,
    hash: u64,
    lines: u64,
    /// Every line is printed as it comes.
    aloud: bool,
}

impl Trace {
    pub fn new(aloud: bool) -> Self {
        Self { aloud, ..Self::default() }
    }

    pub fn add(&mut self, line: String) {
        for byte in line.bytes() {
            // FNV-1a.
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.aloud {
            println!("{line}");
        }
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Equal for equal runs.
    pub fn fingerprint(&self) -> (u64, u64) {
        (self.lines, self.hash)
    }

    pub fn end(&self) -> String {
        self.last.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
