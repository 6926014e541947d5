//! The stream or file that receives lines, and its health.

use std::{
    any::{Any, type_name},
    fs::File,
    io::{self, BufWriter, LineWriter},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{io_fix::fix, log_file::LogFile};
use crate::core::notice::{self, Stream};

/// The stream or file behind a writer. The first failure after a success emits one notice.
pub(crate) struct LogTarget {
    name: String,
    pub(crate) stream: Option<Stream>,
    is_failing: AtomicBool,
}

impl LogTarget {
    pub(crate) fn of<W: Any>(writer: &W) -> Self {
        let stream = stream(writer);
        let name = match stream {
            Some(Stream::Stderr) => "stderr".to_owned(),
            Some(Stream::Stdout) => "stdout".to_owned(),
            None => match log_path(writer).or_else(|| file(writer).and_then(path)) {
                Some(path) => format!("`{}`", path.display()),
                None => format!("its writer (`{}`)", type_name::<W>()),
            },
        };
        Self {
            name,
            stream,
            is_failing: AtomicBool::new(false),
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Records the result of a write. Called without a lock, because a notice can go to other
    /// lines.
    pub(crate) fn note(&self, written: Result<(), &io::Error>) {
        match written {
            Ok(()) if self.is_failing() => self.is_failing.store(false, Ordering::Relaxed),
            Ok(()) => {}
            Err(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                notice::once(&AtomicBool::new(false), || self.failure(error));
            }
            Err(_) => {}
        }
    }

    fn failure(&self, error: &io::Error) -> String {
        let (name, fix) = (&self.name, fix(error.kind()));
        format!(
            "the access log cannot write to {name}: {error}; its records are lost and counted until it \
             can: {fix}"
        )
    }
}

fn stream(writer: &dyn Any) -> Option<Stream> {
    if writer.is::<io::Stderr>() {
        Some(Stream::Stderr)
    } else if writer.is::<io::Stdout>() {
        Some(Stream::Stdout)
    } else {
        None
    }
}

fn file(writer: &dyn Any) -> Option<&File> {
    let plain = writer.downcast_ref::<File>();
    let buffered = || writer.downcast_ref().map(BufWriter::get_ref);
    let by_lines = || writer.downcast_ref().map(LineWriter::get_ref);
    plain.or_else(buffered).or_else(by_lines)
}

/// Returns the path of a [`LogFile`].
fn log_path(writer: &dyn Any) -> Option<PathBuf> {
    let file: Option<&LogFile> = writer.downcast_ref();
    file.map(|file| file.path().to_owned())
}

/// Returns the path of an open file if the operating system reports it.
#[cfg(target_os = "linux")]
fn path(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;

    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(not(target_os = "linux"))]
fn path(_: &File) -> Option<PathBuf> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_named_by_its_stream_its_path_or_its_type() {
        assert_eq!(LogTarget::of(&io::stderr()).name, "stderr");
        assert_eq!(LogTarget::of(&io::stdout()).name, "stdout");
        let memory = LogTarget::of(&Vec::<u8>::new()).name;
        assert!(memory.contains("Vec<u8>"), "{memory}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_is_named_by_its_path_also_behind_a_buffer() {
        let open = || File::options().write(true).open("/dev/null").unwrap();
        assert_eq!(LogTarget::of(&open()).name, "`/dev/null`");
        assert_eq!(LogTarget::of(&BufWriter::new(open())).name, "`/dev/null`");
        assert_eq!(LogTarget::of(&LineWriter::new(open())).name, "`/dev/null`");
    }
}
