//! Bytes taken apart into the arguments of a target. There are always enough: what is missing is zero or empty.

/// What is left of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutter<'a>(pub(crate) &'a [u8]);

impl<'a> Cutter<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// Bytes behind their length, u16 little-endian; the rest, if there are fewer.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }
}

/// Appends what [`Cutter::piece`] takes. Longer bytes are cut off.
pub(crate) fn put_piece(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend(bytes.iter().take(usize::from(length)));
}
