//! Images made by hand, real images, and mangled ones.

mod common;
mod corpus;
mod descriptors;
mod inconsistent;
mod mangled;
mod variants;
