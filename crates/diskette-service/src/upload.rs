//! Bytes from the network into a spool.

mod multipart;
mod receive;

pub(crate) use multipart::read_form;
pub(crate) use receive::{Receiver, allowed, receive_body};
