//! A response that is bytes already. Owns the trick that lets one encoding of an event serve every stream, page and look-up:
//! `event` is field 1 of all their responses, and whatever else a response has may follow it.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};

/// A finished message. The server only writes it.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// What is the same for everybody.
    shared: Bytes,
    /// What is this receiver's alone.
    own: Bytes,
}

impl Encoded {
    /// A message in two parts.
    pub fn new(shared: Bytes, own: Bytes) -> Self {
        Self { shared, own }
    }
}

impl From<Bytes> for Encoded {
    fn from(shared: Bytes) -> Self {
        Self::new(shared, Bytes::new())
    }
}

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.shared);
        buffer.put_slice(&self.own);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.shared.len() + self.own.len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
