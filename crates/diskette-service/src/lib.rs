//! The thin service on top of diskette: uploads, catalog, overlays, launch.
//!
//! No code about image formats lives here: whatever looks inside of a disk is the library's.
