//! Frames on a stream: a big-endian u32 length, then so many bytes. The length is checked before memory is taken for it,
//! and memory grows only with what has arrived, so a liar pays for what he claims.

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Bytes of the length field.
pub(crate) const HEAD: usize = 4;

/// One read from the stream at most.
const READ_BYTES: usize = 64 << 10;

/// Frames up to this size are copied together before writing; larger ones are written from where they are.
const COPY_BYTES_MAX: usize = 64 << 10;

/// What is copied together is written at this size.
const WRITE_BYTES: usize = 256 << 10;

/// Why no frame can be read from here on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame of {length} bytes, at most {max} allowed")]
    TooLarge { length: usize, max: usize },
    #[error("the stream ended inside a frame, {got} bytes after its start")]
    Cut { got: usize },
    #[error("the frame did not arrive within {0:?}")]
    Slow(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameError {
    /// For the label `reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "frame_too_large",
            Self::Cut { .. } => "cut",
            Self::Slow(_) => "slow",
            Self::Io(_) => "io",
        }
    }
}

/// Finds frames in bytes as they come. No I/O of its own.
#[derive(Debug)]
pub(crate) struct FrameDecoder {
    buffer: BytesMut,
    max: usize,
}

impl FrameDecoder {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max,
        }
    }

    /// Adds bytes that arrived.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What the next frame says of its length, as soon as that is there.
    fn length(&self) -> Result<Option<usize>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > self.max {
            return Err(FrameError::TooLarge {
                length,
                max: self.max,
            });
        }
        Ok(Some(length))
    }

    /// Takes the next whole frame, if it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        if self.buffer.len() - HEAD < length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Bytes of a frame that is not whole yet.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len()
    }
}

/// Reads frames from a stream.
#[derive(Debug)]
pub(crate) struct FrameReader<S> {
    stream: S,
    decoder: FrameDecoder,
    scratch: Box<[u8]>,
    /// From the first byte of a frame to its last.
    frame_timeout: Duration,
}

impl<S: AsyncRead + Unpin> FrameReader<S> {
    pub(crate) fn new(stream: S, max: usize, frame_timeout: Duration) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(max),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            frame_timeout,
        }
    }

    /// The next frame, or `None` if the stream ended between frames. Waits for the first byte as long as it takes.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let mut deadline = None;
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let read = self.stream.read(&mut self.scratch);
            let count = if self.decoder.pending() == 0 {
                read.await?
            } else {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.frame_timeout);
                match timeout_at(deadline, read).await {
                    Ok(count) => count?,
                    Err(_elapsed) => return Err(FrameError::Slow(self.frame_timeout)),
                }
            };
            match self.scratch.get(..count) {
                Some(bytes) if count > 0 => self.decoder.feed(bytes),
                _ if self.decoder.pending() == 0 => return Ok(None),
                _ => {
                    return Err(FrameError::Cut {
                        got: self.decoder.pending(),
                    });
                }
            }
        }
    }

    /// The one frame that must come within the frame timeout, its first byte included.
    pub(crate) async fn only(&mut self) -> Result<Bytes, FrameError> {
        let limit = self.frame_timeout;
        match tokio::time::timeout(limit, self.next()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(FrameError::Cut { got: 0 }),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(FrameError::Slow(limit)),
        }
    }

    /// The length of the next frame, which must be said within the frame timeout. The frame stays where it is, so that its
    /// reader can make room first; meanwhile its sender waits.
    pub(crate) async fn length(&mut self) -> Result<usize, FrameError> {
        let limit = self.frame_timeout;
        let reading = async {
            loop {
                if let Some(length) = self.decoder.length()? {
                    return Ok(length);
                }
                let count = self.stream.read(&mut self.scratch).await?;
                match self.scratch.get(..count) {
                    Some(bytes) if count > 0 => self.decoder.feed(bytes),
                    _ => {
                        return Err(FrameError::Cut {
                            got: self.decoder.pending(),
                        });
                    }
                }
            }
        };
        tokio::time::timeout(limit, reading)
            .await
            .unwrap_or(Err(FrameError::Slow(limit)))
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }
}

/// Writes all frames and flushes once. `buffer` is kept by the caller so that its memory is reused.
pub(crate) async fn write_frames<S: AsyncWrite + Unpin>(
    stream: &mut S,
    frames: &[Bytes],
    buffer: &mut BytesMut,
) -> io::Result<()> {
    buffer.clear();
    for frame in frames {
        buffer.put_u32(frame.len() as u32);
        if frame.len() > COPY_BYTES_MAX {
            stream.write_all(buffer).await?;
            buffer.clear();
            stream.write_all(frame).await?;
            continue;
        }
        buffer.put_slice(frame);
        if buffer.len() >= WRITE_BYTES {
            stream.write_all(buffer).await?;
            buffer.clear();
        }
    }
    if !buffer.is_empty() {
        stream.write_all(buffer).await?;
        buffer.clear();
    }
    stream.flush().await
}

/// Writes one frame.
pub(crate) async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    frame: Bytes,
) -> io::Result<()> {
    write_frames(stream, &[frame], &mut BytesMut::with_capacity(HEAD)).await
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    async fn encode(frames: &[Bytes]) -> Vec<u8> {
        let mut stream = Cursor::new(Vec::new());
        write_frames(&mut stream, frames, &mut BytesMut::new())
            .await
            .unwrap();
        stream.into_inner()
    }

    #[tokio::test]
    async fn the_encoding_is_fixed() {
        let frames = [
            Bytes::from_static(b"ab"),
            Bytes::new(),
            Bytes::from_static(b"c"),
        ];
        assert_eq!(
            hex::encode(encode(&frames).await),
            "0000000261620000000000000001 63".replace(' ', "")
        );
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut decoder = FrameDecoder::new(16 << 20);
        decoder.feed(&(16_u32 << 20).to_be_bytes());
        assert!(decoder.next().unwrap().is_none());
        assert!(
            decoder.buffer.capacity() < 1_024,
            "{}",
            decoder.buffer.capacity()
        );
        let mut decoder = FrameDecoder::new(16 << 20);
        decoder.feed(&u32::MAX.to_be_bytes());
        let error = decoder.next().unwrap_err();
        assert!(
            matches!(
                error,
                FrameError::TooLarge {
                    length: 0xffff_ffff,
                    ..
                }
            ),
            "{error}"
        );
        assert!(decoder.buffer.capacity() < 1_024);
    }

    #[tokio::test]
    async fn large_and_small_frames_mix() {
        let sizes = [
            3,
            COPY_BYTES_MAX + 1,
            0,
            COPY_BYTES_MAX,
            WRITE_BYTES * 3,
            1,
            READ_BYTES,
        ];
        let frames: Vec<Bytes> = sizes
            .iter()
            .map(|n| Bytes::from(vec![*n as u8; *n]))
            .collect();
        let bytes = encode(&frames).await;
        let mut reader =
            FrameReader::new(Cursor::new(bytes), WRITE_BYTES * 3, Duration::from_secs(60));
        for frame in &frames {
            assert_eq!(reader.next().await.unwrap().as_ref(), Some(frame));
        }
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let mut reader =
            FrameReader::new(Cursor::new(b"\0\0\0\x05abc"), 16, Duration::from_secs(60));
        assert!(matches!(
            reader.next().await,
            Err(FrameError::Cut { got: 7 })
        ));
        let mut reader = FrameReader::new(Cursor::new(b"\0\0"), 16, Duration::from_secs(60));
        assert!(matches!(
            reader.next().await,
            Err(FrameError::Cut { got: 2 })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_drips_is_given_up_but_silence_between_frames_is_not() {
        let (mut writer, stream) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(stream.compat(), 16, Duration::from_secs(5));
        let waiting = tokio::spawn(async move { (reader.next().await, reader.next().await) });
        tokio::time::sleep(Duration::from_secs(600)).await;
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"\0\0\0\x01x\0\0\0\x10")
            .await
            .unwrap();
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The reader gives up on the way; a failed write is what we expect then.
            if tokio::io::AsyncWriteExt::write_all(&mut writer, b".")
                .await
                .is_err()
            {
                break;
            }
        }
        let (first, second) = waiting.await.unwrap();
        assert_eq!(first.unwrap().unwrap(), Bytes::from_static(b"x"));
        assert!(matches!(second, Err(FrameError::Slow(_))), "{second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_frame_times_out() {
        let (mut writer, stream) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(stream.compat(), 16, Duration::from_secs(5));
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"\0\0\0\x09half")
            .await
            .unwrap();
        assert!(matches!(reader.next().await, Err(FrameError::Slow(_))));
        let mut reader =
            FrameReader::new(tokio::io::duplex(64).1.compat(), 16, Duration::from_secs(5));
        assert!(reader.only().await.is_err());
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20), pieces in proptest::collection::vec(1_usize..50, 1..20)) {
            let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
            let bytes = futures::executor::block_on(encode(&frames));
            let mut decoder = FrameDecoder::new(200);
            let mut found = Vec::new();
            let mut rest = bytes.as_slice();
            let mut sizes = pieces.iter().cycle();
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                decoder.feed(piece);
                rest = tail;
                while let Some(frame) = decoder.next().unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn noise_never_yields_more_than_it_holds(bytes in proptest::collection::vec(any::<u8>(), 0..512), max in 0_usize..64) {
            let mut decoder = FrameDecoder::new(max);
            decoder.feed(&bytes);
            let mut total = 0;
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        prop_assert!(frame.len() <= max);
                        total += HEAD + frame.len();
                    }
                    Ok(None) | Err(FrameError::TooLarge { .. }) => break,
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
            }
            prop_assert_eq!(total + decoder.pending(), bytes.len());
        }
    }
}
