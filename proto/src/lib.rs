//! The gRPC contract between controller, speakers and `bgpctl`, generated from `proto/routeshare/`.
//!
//! Programs convert these types to their own at the edge and use them nowhere else.

#![allow(
    missing_docs,
    clippy::all,
    reason = "generated from the .proto files, which carry the documentation"
)]

/// `routeshare-bfd`'s service, for speakers.
pub mod bfd {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("routeshare.bfd.v1");
    }
}

/// The controller's services: configuration streams for speakers, questions for operators.
pub mod controller {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("routeshare.controller.v1");
    }
}

/// The speaker's service.
pub mod speaker {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("routeshare.speaker.v1");
    }
}

pub mod codec;

/// The encoded `FileDescriptorSet` of everything here, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
