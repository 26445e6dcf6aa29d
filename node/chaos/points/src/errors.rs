//! Errors of the system by their names.

use std::io;

/// The error that a real disk would have given. `None` and names that are not known mean an input/output error.
///
/// Numbers are those of Linux on all its common architectures.
#[must_use]
pub fn io_error(name: Option<&str>) -> io::Error {
    let number = match name {
        Some("ENOSPC") => 28,
        Some("EROFS") => 30,
        Some("EDQUOT") => 122,
        Some("EMFILE") => 24,
        _ => 5,
    };
    io::Error::from_raw_os_error(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_reads_as_one() {
        assert_eq!(io_error(Some("ENOSPC")).kind(), io::ErrorKind::StorageFull);
        assert_eq!(io_error(None).raw_os_error(), Some(5));
        assert_eq!(io_error(Some("?")).raw_os_error(), Some(5));
    }
}
