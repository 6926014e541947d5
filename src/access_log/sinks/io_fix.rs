//! Suggested fixes for failed file operations.

use std::io::ErrorKind;

/// Returns the suggested fix for a failed operation.
pub(super) fn fix(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free space on its device"
        }
        ErrorKind::BrokenPipe => "restart the reader of the pipe and this process",
        ErrorKind::NotFound => "create the directory of the file again",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "allow this process to write the file"
        }
        _ => "check that it is open for writing",
    }
}
