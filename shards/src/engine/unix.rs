//! A listening Unix socket and its file.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a socket of ours; removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct UnixFile {
    path: PathBuf,
    id: Id,
}

/// Device and number of the file, and when it was made: numbers are used again.
type Id = (u64, u64, i64, i64);

fn id(file: &fs::Metadata) -> Id {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec())
}

impl UnixFile {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            id: id(&file),
        })
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| id(&file) == self.id);
        if ours {
            // Somebody else was faster: then it is gone, too.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A bound, listening Unix socket with `mode`, if one is given, from the first client on. A socket
/// at `path` on which nobody listens any more is replaced.
///
/// # Errors
/// `AddrInUse`: somebody listens there. `AlreadyExists`: the file there is no socket. Any other
/// step the kernel refuses.
pub(crate) fn listen_unix(
    path: &Path,
    mode: Option<u32>,
    backlog: u32,
) -> io::Result<(OwnedFd, UnixFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = UnixFile::of(path)?;
    if let Some(mode) = mode {
        // Before anybody can connect.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok((socket.into(), file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(file) if !file.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) if is_heard(path)? => Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => fs::remove_file(path),
    }
}

/// Whether somebody listens at `path`.
fn is_heard(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(false),
            // Somebody who does not keep up.
            io::ErrorKind::WouldBlock => Ok(true),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o7777
    }

    #[test]
    fn file_comes_with_its_mode_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("clients");
        let (socket, file) = listen_unix(&path, Some(0o620), 8).expect("a listener");
        assert_eq!(mode(&path), 0o620);
        drop(UnixStream::connect(&path).expect("somebody listens"));
        let taken = listen_unix(&path, None, 8).expect_err("it is ours");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop((socket, file));
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("clients");
        let (socket, stale) = listen_unix(&path, None, 8).expect("a listener");
        drop(socket);
        assert!(path.exists(), "as after a kill");
        // Files made within one tick of the kernel's clock may look the same.
        std::thread::park_timeout(std::time::Duration::from_millis(30));
        let (_socket, file) = listen_unix(&path, None, 8).expect("the stale one is replaced");
        drop(stale);
        assert!(path.exists(), "it is not the first one's any more");
        drop(file);
        fs::write(&path, "precious").expect("a file");
        let refused = listen_unix(&path, None, 8).expect_err("no socket");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(path.exists());
    }
}
