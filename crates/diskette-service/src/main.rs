//! The program `diskette-service`.

fn main() {}
