//! A writer of whole lines.

use std::{
    io::{self, ErrorKind, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The maximum number of bytes per write, which contains whole lines. POSIX writes up to this many
/// bytes to a pipe without interleaving them with other writes.
const MAX_CHUNK_BYTES: usize = 4 << 10;

/// A writer that tracks incomplete lines.
pub(super) struct Pen {
    pub(super) writer: Box<dyn Write + Send>,
    pub(super) torn: bool,
    /// The latest failure.
    pub(super) failure: Option<io::Error>,
}

impl Pen {
    /// Writes whole lines and returns the number of lost ones.
    pub(super) fn write(&mut self, mut lines: &[u8]) -> u64 {
        let mut lost = 0;
        let all = lines;
        while !lines.is_empty() {
            let (chunk, rest) = lines.split_at(chunk_len(lines));
            lost += self.write_chunk(chunk);
            lines = rest;
        }
        // If the flush fails, the writer may have buffered lines that it cannot write: all count as
        // lost.
        match self.guarded(|pen| pen.writer.flush()) {
            true => lost,
            false => count_lines(all),
        }
    }

    fn write_chunk(&mut self, chunk: &[u8]) -> u64 {
        let mut taken = 0;
        let is_written = self.guarded(|pen| {
            if pen.torn {
                write_all(&mut pen.writer, b"\n", &mut 0)?;
                pen.torn = false;
            }
            write_all(&mut pen.writer, chunk, &mut taken)
        });
        if is_written {
            return 0;
        }
        self.torn |= taken > 0 && chunk[taken - 1] != b'\n';
        count_lines(&chunk[taken..])
    }

    /// Calls the writer and returns `true` if it succeeded.
    fn guarded(&mut self, call: impl FnOnce(&mut Self) -> io::Result<()>) -> bool {
        let called = catch_unwind(AssertUnwindSafe(|| call(self)));
        let failure = match called {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("the writer panicked"),
        };
        self.failure = Some(failure);
        false
    }
}

/// Writes all bytes. On an error, `taken` is the number of accepted bytes.
fn write_all(writer: &mut dyn Write, bytes: &[u8], taken: &mut usize) -> io::Result<()> {
    while *taken < bytes.len() {
        match writer.write(&bytes[*taken..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *taken = bytes.len().min(*taken + count),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the length of the next chunk: whole lines, at least one.
fn chunk_len(lines: &[u8]) -> usize {
    let within = &lines[..lines.len().min(MAX_CHUNK_BYTES)];
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
    let first = || lines.iter().position(|byte| *byte == b'\n');
    end(within).or_else(first).map_or(lines.len(), |at| at + 1)
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
