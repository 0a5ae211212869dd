//! Images made by hand, images by qemu-img, real images, and mangled ones.

mod common;
mod corpus;
mod descriptors;
mod edit;
mod inconsistent;
mod mangled;
mod oracle;
mod variants;
mod write;
