//! Memory for the bytes of many small messages.

use bytes::{Bytes, BytesMut};

/// How much is asked for at a time. Whoever keeps one small message keeps no more than this.
const CHUNK: usize = 16 * 1024;

/// What is larger gets memory of its own.
const SMALL: usize = CHUNK / 8;

/// Copies bytes one behind the other into chunks of memory that they share.
///
/// Memory of its own for each payload and key would be asked for by the thread that polls and
/// given back by the one that handles, which is what allocators are slowest at.
#[derive(Debug, Default)]
pub(crate) struct Chunk(BytesMut);

impl Chunk {
    /// A copy of these bytes.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > SMALL {
            return Bytes::copy_from_slice(bytes);
        }
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(CHUNK);
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_and_small_ones_share_a_chunk() {
        let mut chunk = Chunk::default();
        let texts: Vec<_> = (0..100).map(|n| vec![n as u8; n]).collect();
        let copies: Vec<_> = texts.iter().map(|text| chunk.copy(text)).collect();
        assert_eq!(copies, texts);
        // One directly behind the other.
        assert_eq!(copies[2].as_ptr(), copies[1].as_ptr().wrapping_add(1));
        let large = chunk.copy(&[7; SMALL + 1]);
        assert_eq!(large, [7; SMALL + 1][..]);
        assert_eq!(chunk.copy(b"x").as_ptr(), copies[99].as_ptr().wrapping_add(99));
    }

    #[test]
    fn a_full_chunk_is_followed_by_another() {
        let mut chunk = Chunk::default();
        let copies: Vec<_> = (0..100).map(|n| chunk.copy(&[n; SMALL])).collect();
        for (n, copy) in copies.iter().enumerate() {
            assert_eq!(*copy, [n as u8; SMALL][..]);
        }
    }
}
