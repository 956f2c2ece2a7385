//! Bare programs: the least that could do the same work on this machine. Each runs in a thread, as a client meets it over
//! loopback, or is a loop over files.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::limits::FILE_BYTES;
use super::wire;
use crate::disk::DiskFile;

/// Of a frame that a bare server takes.
const FRAME_BYTES: usize = 8 << 20;
/// As long as the answer to a Produce of one batch.
const ANSWER: [u8; 52] = {
    let mut answer = [0; 52];
    answer[3] = 48;
    answer
};

/// Serves one connection in a thread of its own.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    fn start(serve: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            serve(stream)
        });
        Ok(Self { address, thread })
    }

    /// Writes each frame to a recycled file, syncs, answers.
    pub(super) fn recycling(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let mut at = 0;
        Self::start(move |stream| {
            answer_each(stream, |frame| {
                if at + frame.len() > FILE_BYTES {
                    at = 0;
                }
                file.write_all_at(frame, at as u64)?;
                at += frame.len();
                file.sync()
            })
        })
    }

    /// Appends each frame to a new file, syncs, answers.
    pub(super) fn appending(file: File) -> io::Result<Self> {
        let mut at = 0;
        Self::start(move |stream| {
            answer_each(stream, |frame| {
                FileExt::write_all_at(&file, frame, at)?;
                at += frame.len() as u64;
                file.sync_data()
            })
        })
    }

    /// Sends ranges of files: a request is number of the file, position and length, each u64 little-endian.
    pub(super) fn sending(paths: &[PathBuf]) -> io::Result<Self> {
        let files: Vec<File> = paths.iter().map(File::open).collect::<io::Result<_>>()?;
        Self::start(move |mut stream| {
            while let Some([file, at, bytes]) = read_range(&mut stream)? {
                let file = usize::try_from(file).ok().and_then(|file| files.get(file));
                let file = file.ok_or_else(|| io::Error::other("no such file"))?;
                let (mut position, end) = (at, at + bytes);
                while position < end {
                    let left = usize::try_from(end - position).unwrap_or(usize::MAX);
                    if rustix::fs::sendfile(&stream, file, Some(&mut position), left)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
            Ok(())
        })
    }

    /// To be called when the client has closed its end.
    pub(super) fn finish(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a bare program panicked")))
    }
}

fn answer_each(
    mut stream: TcpStream,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        match wire::read_frame(&mut stream, &mut frame, FRAME_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        take(&frame)?;
        stream.write_all(&ANSWER)?;
    }
}

/// None at the end of the stream.
fn read_range(stream: &mut TcpStream) -> io::Result<Option<[u64; 3]>> {
    let mut request = [0; 24];
    match io::Read::read_exact(stream, &mut request) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut fields = [0; 3];
    for (field, bytes) in fields.iter_mut().zip(request.as_chunks::<8>().0) {
        *field = u64::from_le_bytes(*bytes);
    }
    Ok(Some(fields))
}

/// A request to [`Server::sending`].
pub(super) fn range(file: usize, position: u64, bytes: u64) -> Vec<u8> {
    [file as u64, position, bytes].iter().flat_map(|field| field.to_le_bytes()).collect()
}

/// Files that grow by one batch in each round, as those of as many partitions do.
#[derive(Debug)]
pub(super) struct Growing {
    files: Vec<File>,
    bytes: u64,
}

impl Growing {
    pub(super) fn create(dir: &Path, count: usize) -> io::Result<Self> {
        std::fs::create_dir(dir)?;
        let create = |number| File::create_new(dir.join(format!("{number}")));
        Ok(Self { files: (0..count).map(create).collect::<io::Result<_>>()?, bytes: 0 })
    }

    /// One write to each, and one write of the sum with one sync to the recycled file.
    pub(super) fn shared(&mut self, batch: &[u8], recycled: &dyn DiskFile) -> io::Result<Duration> {
        let all = batch.repeat(self.files.len());
        let started = Instant::now();
        for file in &self.files {
            FileExt::write_all_at(file, batch, self.bytes)?;
        }
        let at = self.bytes * self.files.len() as u64 % (FILE_BYTES as u64 / 2);
        recycled.write_all_at(&all, at)?;
        recycled.sync()?;
        self.bytes += batch.len() as u64;
        Ok(started.elapsed())
    }

    /// One write and one sync to each.
    pub(super) fn apart(&mut self, batch: &[u8]) -> io::Result<Duration> {
        let started = Instant::now();
        for file in &self.files {
            FileExt::write_all_at(file, batch, self.bytes)?;
            file.sync_data()?;
        }
        self.bytes += batch.len() as u64;
        Ok(started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn ranges_are_sent_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a"), dir.path().join("b")];
        std::fs::write(&paths[0], b"0123456789").unwrap();
        std::fs::write(&paths[1], b"abcdefghij").unwrap();
        let server = Server::sending(&paths).unwrap();
        let mut client = TcpStream::connect(server.address).unwrap();
        client.write_all(&range(1, 2, 3)).unwrap();
        client.write_all(&range(0, 9, 1)).unwrap();
        let mut got = [0; 4];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"cde9");
        drop(client);
        server.finish().unwrap();
    }

    #[test]
    fn each_frame_is_written_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let server = Server::appending(File::create_new(&path).unwrap()).unwrap();
        let mut client = TcpStream::connect(server.address).unwrap();
        for _ in 0..2 {
            client.write_all(b"\0\0\0\x03abc").unwrap();
            client.read_exact(&mut [0; ANSWER.len()]).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"abcabc");
        drop(client);
        server.finish().unwrap();
    }
}
