//! For tests alone: image builders, the conformance suite, storage that fails.
