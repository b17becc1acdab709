//! How messages become bytes and bytes messages, for streams that are many and mostly silent.
//!
//! The services' generated code uses it in the place of `tonic_prost::ProstCodec`, which sets 8 KiB aside for
//! each direction of each stream before anything is said.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Nothing is set aside; small messages that are ready together are sent together, up to so many octets.
const SEND_TOGETHER: usize = 32 << 10;

/// `application/grpc+proto` with buffers that are made when there is a message, and as large as it is.
#[derive(Clone, Copy, Debug)]
pub struct Lean<Out, In>(PhantomData<(Out, In)>);

impl<Out, In> Default for Lean<Out, In> {
    fn default() -> Self {
        Lean(PhantomData)
    }
}

impl<Out, In> Codec for Lean<Out, In>
where
    Out: Message + 'static,
    In: Message + Default + 'static,
{
    type Encode = Out;
    type Decode = In;
    type Encoder = LeanEncoder<Out>;
    type Decoder = LeanDecoder<In>;

    fn encoder(&mut self) -> LeanEncoder<Out> {
        LeanEncoder(PhantomData)
    }

    fn decoder(&mut self) -> LeanDecoder<In> {
        LeanDecoder(PhantomData)
    }
}

/// One direction of [`Lean`].
#[derive(Clone, Copy, Debug)]
pub struct LeanEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for LeanEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // All at once: growing step by step would leave up to twice as much behind.
        buffer.reserve(message.encoded_len());
        let encoded = message.encode(buffer);
        encoded.map_err(|error| Status::internal(format!("cannot encode a message: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, SEND_TOGETHER)
    }
}

/// The other direction of [`Lean`].
#[derive(Clone, Copy, Debug)]
pub struct LeanDecoder<T>(PhantomData<T>);

impl<T: Message + Default> Decoder for LeanDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let decoded = T::decode(buffer).map(Some);
        decoded.map_err(|error| Status::internal(format!("cannot decode a message: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, SEND_TOGETHER)
    }
}
