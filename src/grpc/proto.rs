//! The interface's messages and client, generated from `proto/`. Owns nothing by hand.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/client/hookstream.v1.rs"));

/// The compiled interface, for reflection and for JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The compiled interface, read once; `None` if it cannot be.
pub fn pool() -> Option<&'static prost_reflect::DescriptorPool> {
    static POOL: std::sync::LazyLock<Option<prost_reflect::DescriptorPool>> =
        std::sync::LazyLock::new(|| prost_reflect::DescriptorPool::decode(DESCRIPTORS).ok());
    POOL.as_ref()
}
