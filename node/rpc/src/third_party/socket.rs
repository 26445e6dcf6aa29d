//! A Unix socket that only its owner may open.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::ThirdPartyError;

/// A bound socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct ThirdPartySocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl ThirdPartySocket {
    /// Binds `path`, mode 0600. A socket that an earlier process left behind is replaced; one that somebody answers on is not.
    ///
    /// # Errors
    /// [`ThirdPartyError::Io`].
    pub async fn bind(path: impl Into<PathBuf>) -> Result<Self, ThirdPartyError> {
        let path = path.into();
        let failed = |e: &io::Error| ThirdPartyError::io("listen on", path.display(), e);
        clear(&path).await.map_err(|e| failed(&e))?;
        let listener = bind_private(&path).map_err(|e| failed(&e))?;
        Ok(Self { listener, path })
    }
}

impl Drop for ThirdPartySocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "third-party socket was not removed");
        }
    }
}

/// Makes sure that nobody serves at `path`.
async fn clear(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let taken = |reason| Err(io::Error::new(io::ErrorKind::AddrInUse, reason));
    if !metadata.file_type().is_socket() {
        return taken("there is a file that is no socket");
    }
    match UnixStream::connect(path).await {
        Ok(_) => taken("another process listens on it"),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) => Err(e),
    }
}

/// At no moment may anyone else open it: it is made in a folder of our own and moved to its place.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    // Short: the path of a socket has at most 107 bytes.
    let name = format!(".{:06x}", rand::random::<u32>() & 0xff_ffff);
    let private = folder.unwrap_or(Path::new(".")).join(name);
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let staged = private.join("s");
    let bound = (|| {
        let listener = UnixListener::bind(&staged)?;
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o600))?;
        fs::rename(&staged, path)?;
        Ok(listener)
    })();
    if bound.is_err() && staged.exists() {
        fs::remove_file(&staged)?;
    }
    fs::remove_dir(&private)?;
    bound
}
