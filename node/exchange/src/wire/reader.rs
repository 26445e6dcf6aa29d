//! Takes a message apart.

use alloy_primitives::B256;
use bytes::Bytes;
use quorate_enclave::{PayloadHash, PublicKey};

use super::{WireError, in_range};

/// What is left of a message. Parts that are taken share its memory.
pub(super) struct Reader {
    left: Bytes,
}

impl Reader {
    pub(super) fn new(body: &Bytes) -> Self {
        Self { left: body.clone() }
    }

    pub(super) fn take(&mut self, field: &'static str, length: usize) -> Result<Bytes, WireError> {
        if length > self.left.len() {
            return Err(WireError::Short { field });
        }
        Ok(self.left.split_to(length))
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], WireError> {
        let taken = self.take(field, N)?;
        <[u8; N]>::try_from(taken.as_ref()).map_err(|_| WireError::Short { field })
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, WireError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// 0 or 1.
    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, WireError> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(WireError::OutOfRange {
                field,
                found: found.into(),
                allowed: "0 or 1",
            }),
        }
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<u16, WireError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn count(
        &mut self,
        field: &'static str,
        least: usize,
        most: usize,
        allowed: &'static str,
    ) -> Result<usize, WireError> {
        let count = usize::from(self.number(field)?);
        in_range(field, count, least, most, allowed)?;
        Ok(count)
    }

    pub(super) fn hash(&mut self, field: &'static str) -> Result<PayloadHash, WireError> {
        self.array(field).map(PayloadHash::from_bytes)
    }

    pub(super) fn key(&mut self, field: &'static str) -> Result<PublicKey, WireError> {
        self.array(field).map(PublicKey::from_bytes)
    }

    pub(super) fn digest(&mut self, field: &'static str) -> Result<B256, WireError> {
        self.array(field).map(B256::new)
    }

    /// A part with its length (4 bytes) in front.
    pub(super) fn long(&mut self, field: &'static str, most: usize) -> Result<Bytes, WireError> {
        let length = u32::from_be_bytes(self.array(field)?);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        in_range(field, length, 1, most, "1 to what its own format allows")?;
        self.take(field, length)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self, field: &'static str, most: usize) -> Result<Bytes, WireError> {
        in_range(
            field,
            self.left.len(),
            0,
            most,
            "no more than its own format allows",
        )?;
        Ok(std::mem::take(&mut self.left))
    }

    pub(super) fn text(&mut self, field: &'static str, length: usize) -> Result<String, WireError> {
        let taken = self.take(field, length)?;
        let text = std::str::from_utf8(&taken).map_err(|_| WireError::Malformed { field })?;
        Ok(text.to_owned())
    }

    pub(super) fn end(self) -> Result<(), WireError> {
        match self.left.len() {
            0 => Ok(()),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }
}
