//! A writer in memory with scripted failures.

use std::{
    io::{self, ErrorKind, Write},
    sync::{Arc, Mutex},
};

use serde_json::Value;

/// The written text, and the result of the next writes.
#[derive(Clone, Default)]
pub(crate) struct Paper(Arc<Mutex<Sheet>>);

#[derive(Default)]
struct Sheet {
    text: String,
    mood: Mood,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Fine,
    Fails,
    Panics,
    /// Takes this number of bytes, and then fails.
    Tears(usize),
    FailsToFlush,
}

impl Paper {
    pub(crate) fn is(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().text.clone()
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        records(&self.text())
    }
}

pub(crate) fn records(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sheet = self.0.lock().unwrap();
        let taken = match sheet.mood {
            Mood::Fine | Mood::FailsToFlush => bytes.len(),
            Mood::Fails | Mood::Tears(0) => return Err(ErrorKind::StorageFull.into()),
            Mood::Panics => {
                drop(sheet);
                panic!("a custom writer")
            }
            Mood::Tears(left) => {
                let taken = left.min(bytes.len());
                sheet.mood = Mood::Tears(left - taken);
                taken
            }
        };
        sheet
            .text
            .push_str(str::from_utf8(&bytes[..taken]).unwrap());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.lock().unwrap().mood {
            Mood::FailsToFlush => Err(ErrorKind::BrokenPipe.into()),
            Mood::Fine | Mood::Fails | Mood::Panics | Mood::Tears(_) => Ok(()),
        }
    }
}
