//! The floors: the least that keeps the same promise on the same stack. Owns an ingress that writes bodies to a plain file
//! with one sync a batch, a stream server that sends finished bytes from memory, and the bare sync.

mod file;
mod stream;

pub use self::{
    file::{Ingress, sync_durations},
    stream::Streams,
};
