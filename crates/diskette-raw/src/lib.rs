//! Raw disk images: the smallest format of diskette.
