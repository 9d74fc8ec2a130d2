//! How messages get into the buffers that the transport sends. Owns the size of those buffers; refuses to know what is in
//! them.

use std::marker::PhantomData;

use bytes::BufMut;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::limits;

/// tonic's codec for protobuf, but a stream that has much to send gets its buffers in one piece. Tonic's own begin small
/// and grow, and with each growth all that is in them is copied. A stream that has little to send keeps to small ones.
#[derive(Clone, Debug)]
pub struct BurstCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BurstCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BurstCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = BurstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> BurstEncoder<T> {
        BurstEncoder {
            filled_bytes: 0,
            room_bytes: 0,
            message: PhantomData,
        }
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::default().decoder()
    }
}

/// Encodes the messages of one call.
#[derive(Debug)]
pub struct BurstEncoder<T> {
    /// What was put into the buffer since it was last sent.
    filled_bytes: usize,
    /// What the buffer said that it could still take, at its last message.
    room_bytes: usize,
    message: PhantomData<T>,
}

impl<T: Message> Encoder for BurstEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let was_sent = buffer.remaining_mut() + HEADER_BYTES != self.room_bytes;
        let in_a_burst = was_sent && self.filled_bytes >= limits::SEND_BUFFER_BYTES;
        let length = message.encoded_len();
        if was_sent {
            self.filled_bytes = 0;
        }
        if in_a_burst {
            buffer.reserve(limits::SEND_BUFFER_BYTES + length);
        } else {
            buffer.reserve(length);
        }
        message.encode_raw(buffer);
        self.filled_bytes += HEADER_BYTES + length;
        self.room_bytes = buffer.remaining_mut();
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(limits::SEND_BUFFER_BYTES_MIN, limits::SEND_BUFFER_BYTES)
    }
}

/// What gRPC puts in front of a message: a flag and the length.
const HEADER_BYTES: usize = 5;
