//! The parallel engine of diskette: convert, compare, measure.
