//! VMDK disk images: sparse, flat, split, stream-optimized, COWD and seSparse.
